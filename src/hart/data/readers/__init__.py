"""One file per format; `hart.data.opening` chooses among them."""
