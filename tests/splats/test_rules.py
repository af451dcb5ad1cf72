"""Rules over splats: what they mean, and that nothing else of Python does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.rules import select

from .conftest import make_store

STORE = make_store(count=200)
STORE.age[:] = np.arange(200)
COLUMNS = STORE.columns
USAGE, KAPPA, AGE = STORE.frequency, STORE.kappa.astype(np.float64), STORE.age
WEIGHT = STORE.alpha / STORE.alpha.sum(dtype=np.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("usage < .5", USAGE < 0.5),
        (" kappa >= 10 and age > 100 ", (KAPPA >= 10) & (AGE > 100)),
        ("not (kappa > 10 or age == 3)", ~((KAPPA > 10) | (AGE == 3))),
        ("10 <= age < 20 <= kappa", (AGE >= 10) & (AGE < 20) & (KAPPA >= 20)),
        ("weight < 1e-3 or usage * 2 - -1 > 2.5", (WEIGHT < 1e-3) | (USAGE * 2 + 1 > 2.5)),
        ("age != 4 and index != 5", (AGE != 4) & (AGE != 5)),
        ("kappa > mean(kappa)", KAPPA.mean() < KAPPA),
        ("usage <= quantile(usage, 0.1)", np.quantile(USAGE, 0.1) >= USAGE),
        ("alpha == max(alpha)", STORE.alpha == STORE.alpha.max()),
        ("abs(kappa - median(kappa)) < 1", np.abs(KAPPA - np.median(KAPPA)) < 1),
        ("log(weight) < -8", np.log(WEIGHT) < -8),
        ("token == 0 or min(token) > 3", (STORE.sid == 0) | (STORE.sid.min() > 3)),
        ("age / 0 > 1", AGE > 0),
        ("1 < 2", np.ones(200, bool)),
    ],
)
def test_rules_mean_what_they_say(rule, expected):
    assert np.array_equal(select(rule, COLUMNS), expected)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "no expression"),
        ("usage <", "no expression"),
        ("usage < 1; age", "no expression"),
        ("usage", "gives a number"),
        ("size > 1", "no field 'size': use index, token"),
        ("usage and age > 1", "'usage' is a number"),
        ("(usage > 1) + 1 > 0", "'usage > 1' is true or false"),
        ("not age", "'age' is a number"),
        ("__import__('os').system('true') == 0", "has no meaning"),
        ("().__class__ == 1", "has no meaning"),
        ("usage.shape == 1", "'usage.shape' has no meaning"),
        ("usage[0] > 1", "has no meaning"),
        ("open('x') > 1", "has no meaning"),
        ("quantile(usage) > 1", "has no meaning"),
        ("log(usage, base=2) > 1", "has no meaning"),
        ("quantile(usage, 2) > 1", "cannot be computed"),
        ("(lambda: 1)() > 0", "has no meaning"),
        ("[u for u in usage]", "has no meaning"),
        ("usage ** 9 > 1", "has no meaning"),
        ("age % 2 == 0", "has no meaning"),
        ("age in token", "has no meaning"),
        ("'a' < 'b'", "has no meaning"),
        ("True", "has no meaning"),
        ("usage if age else kappa", "has no meaning"),
        ("(x := 1) > 0", "has no meaning"),
        ("usage > 1" + "0" * 400, "cannot be computed"),
        ("-" * 900 + "age > 0", "-"),
        ("(" * 500 + ")" * 500, "-"),
        ("usage > \0", "-"),
        ("u" * 1001, "at most 1000"),
    ],
)
def test_everything_else_is_one_line(rule, message):
    try:
        selected = select(rule, COLUMNS)
    except ConfigError as error:
        assert message == "-" or message in str(error)
        assert "\n" not in str(error)
    else:
        # Nested signs are fine where the parser is deep enough.
        assert message == "-"
        assert selected.dtype == np.bool_


@given(st.text(alphabet="aekpusg<>=()+-*/.,0123456789 notandr_'[]", max_size=40))
def test_no_text_does_anything_but_select_or_be_refused(rule):
    try:
        assert select(rule, COLUMNS).shape == (200,)
    except ConfigError as error:
        assert "\n" not in str(error)
