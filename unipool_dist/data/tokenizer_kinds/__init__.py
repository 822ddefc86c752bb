"""One file for each kind of tokenizer. :func:`unipool_dist.data.tokenizer.load_tokenizer` chooses among them."""
