"""The reference pair: scenes, training, evaluation and the trained weights. No torch at import."""

import logging

# At import transformers misses a torchvision that nothing here needs: nobody should read of it.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)
