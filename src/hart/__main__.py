"""`python -m hart` is the command `hart`."""

from hart.cli import main

if __name__ == "__main__":
    main()
