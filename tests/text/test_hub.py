import os
import subprocess
import sys

import datasets
import pytest

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.hub import wikitext_103_from_hub


def test_rows_of_the_hub_become_lines(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_dict({"text": ["", " = A = \n", " b \n"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_corpus("wikitext-103", "valid") == "\n = A = \n b \n"
    assert asked == [(("Salesforce/wikitext", "wikitext-103-v1"), {"split": "validation"})]


def test_a_failing_download_is_one_line_with_the_remedy(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("several\nlines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"\(ConnectionError\): .*data\.data_dir=FOLDER") as caught:
        wikitext_103_from_hub("train")
    assert "\n" not in str(caught.value)


def test_offline_without_a_cache_is_that_error(tmp_path):
    code = (
        "from ebm_wgpu.errors import DataError\n"
        "from ebm_wgpu.text.corpora import load_corpus\n"
        "try:\n    load_corpus('wikitext-103', 'test')\n"
        "except DataError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("WikiText-103 cannot be fetched as Salesforce/wikitext (")
    assert done.stdout.count("\n") == 1
