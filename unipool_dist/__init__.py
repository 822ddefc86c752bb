"""Expert-parallel training of UniPool models: one pool of experts, owned across all pipeline stages."""

import warnings

# Megatron-core warns in every process, when imported, of optional GPU libraries that are not used here, and calls
# collectives by names that torch has since changed.
warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
