"""The dense part of the model, built from Megatron-core layers, and the request each layer makes to the pool."""
