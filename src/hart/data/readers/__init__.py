"""One file a format; `hart.data.opening` chooses among them."""
