"""Models in the form of the Hugging Face libraries, written and read without importing transformers.

:mod:`modeling_unipool` is the exception: it is copied into every export, where transformers imports it.
"""
