"""`python -m hart_emoji`."""

from hart_emoji.cli import main

if __name__ == "__main__":
    main()
