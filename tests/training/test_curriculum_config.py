"""A curriculum that contradicts itself or its model is refused, and says why."""

import pytest

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.presets import preset

THREE = ["curriculum.splats=500,2000,4096"]


def test_a_curriculum_ends_with_the_model_of_the_configuration():
    config = apply_overrides(preset("nano"), THREE)
    assert config.curriculum.splats == (500, 2000, config.model.n_splats)
    assert config.curriculum.temperatures[-1] == config.energy.temperature
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["curriculum.splats=500,4096"], r"curriculum\.temperatures has 3 values and .* 2: give"),
        ([*THREE, "curriculum.shares=1,1"], r"curriculum\.shares has 2 values"),
        (["curriculum.splats=500,400,4096"], r"splats=500,400,4096 must rise to .*=4096"),
        (["curriculum.splats=500,500,4096"], "must rise"),
        (["curriculum.splats=500,2000,4000"], r"must rise to model\.n_splats=4096"),
        ([*THREE, "curriculum.temperatures=1,2,1"], r"=1,2,1 must fall to energy\.temperature=1"),
        ([*THREE, "energy.temperature=0.5"], r"must fall to energy\.temperature=0\.5"),
        ([*THREE, "model.family=transformer"], r"model\.family=transformer .* do not learn"),
        ([*THREE, "model.context=transformer", "transformer.max_length=256"], "do not learn"),
        ([*THREE, "energy.form=published"], r"needs energy\.form=normalized"),
        (
            ["curriculum.splats=100,2000,4096"],
            r"sampler\.list_size=128 must be <= 100, the first curriculum\.splats",
        ),
        (
            [
                *THREE,
                "energy.lambda_comp=1",
                "energy.term_neighbours=128",
                "sampler.list_size=9",
                "curriculum.splats=100,2000,4096",
            ],
            r"term_neighbours=128 must be <= 100, the first curriculum\.splats",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides(preset("nano"), overrides)
