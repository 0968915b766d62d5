"""Quiet libraries: what they would print says nothing to our user, or comes as an error anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL, ERROR


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the libraries' loading bars, and notes about a torchvision that nothing here needs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    libraries = (logging, diffusers_logging)
    loud = [each for each in libraries if each.is_progress_bar_enabled()]
    levels = [each.get_verbosity() for each in libraries]
    for library in libraries:
        library.set_verbosity(CRITICAL)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in loud:
            library.enable_progress_bar()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub's line for every try: the last one becomes the error."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
