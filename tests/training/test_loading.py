"""Opening a run: which checkpoint, and what must fit together."""

import json

import pytest

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.files import json_digest
from ebm_wgpu.text.tokenizers import CharTokenizer
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.trainer import Trainer


def test_load_run_takes_steps_and_checkpoint_folders(trained, numba_device):
    run, _, _ = trained
    assert load_run(run.path, numba_device, "last").step == 24
    assert load_run(run.path, numba_device, 20).step == 20
    assert load_run(run.checkpoint_path(20), numba_device).step == 20
    with pytest.raises(CheckpointError, match="no checkpoint of step 3"):
        load_run(run.path, numba_device, 3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_splats", 41, r"splats.h5: tensor \S+ is float32 \(40, 16\) and .* \(41, 16\)"),
        ("expert_hidden", 9, r"weights\.safetensors: tensor \S+ is .*8.* and the model's is .*9"),
        ("n_experts", 3, r"weights.safetensors: tensor \S+ is .* and the model's is"),
    ],
)
def test_a_checkpoint_of_another_shape_names_the_tensor(copied, numba_device, key, value, message):
    content = json.loads((copied.path / "config.json").read_text())
    content["model"][key] = value
    (copied.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_run(copied.path, numba_device)
    with pytest.raises(CheckpointError, match=message):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()


def test_another_tokenizer_of_the_same_size_is_refused(copied, numba_device):
    before = copied.read_tokenizer()
    characters = sorted(before.state()["characters"].replace("c", "$"))
    other = CharTokenizer.from_state({"characters": "".join(characters)})
    assert other.vocab_size == before.vocab_size
    copied.write_tokenizer(other)
    message = r"tokenizer\.json is not the one that \S+ was trained with .*: restore it"
    for path in (copied.path, copied.checkpoint_path("last")):
        with pytest.raises(CheckpointError, match=message):
            load_run(path, numba_device)
    with pytest.raises(CheckpointError, match=message):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()
    copied.write_tokenizer(before)
    assert load_run(copied.path, numba_device, "last").step == 24


def test_a_checkpoint_without_a_fingerprint_goes_with_its_tokenizer(copied, numba_device):
    for path in copied.checkpoints.glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        del manifest["tokenizer"], manifest["sha256"]
        path.write_text(json.dumps({**manifest, "sha256": json_digest(manifest)}))
    assert load_run(copied.path, numba_device, "last").step == 24
