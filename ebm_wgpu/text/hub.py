"""WikiText-103 from the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.folders import SPLIT_ALIASES, join_rows

HUB_NAME = "Salesforce/wikitext"
HUB_CONFIG = "wikitext-103-v1"


def wikitext_103_from_hub(split: str) -> str:
    """The tokenised text of one split of WikiText-103, downloaded once into the hub's cache.

    Source: Merity et al. 2016, arXiv:1609.07843; CC BY-SA 3.0.

    Raises:
        DataError: the hub cannot be reached and nothing is cached.
    """
    import datasets

    hub_split = SPLIT_ALIASES[split][-1]
    try:
        rows = datasets.load_dataset(HUB_NAME, HUB_CONFIG, split=hub_split)["text"]
    # The library lets the errors of several HTTP stacks through, which share no base class.
    except Exception as error:
        raise DataError(
            f"WikiText-103 cannot be fetched as {HUB_NAME} ({type(error).__name__}): connect to "
            "the network, or give a local folder with data.data_dir=FOLDER"
        ) from error
    return join_rows(rows)
