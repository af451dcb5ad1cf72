import itertools
import unicodedata

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.cleaning import Cleaning, LineCleaner

ANY_LINE = st.text(st.characters(exclude_characters="\n") | st.sampled_from(" \t\x85\xa0\u2028İ"))
FORMS = st.sampled_from(["nfc", "nfkc", "none"])
SPACES = st.sampled_from(["keep", "trim", "collapse"])
SENTENCES = st.lists(
    st.sampled_from(
        [
            "naïve",
            "café",
            "“quoted”",
            "–",
            "déjà",
            "vu,",
            "Ångström",
            "łódź",
            "привет",
            "αβγ",
            "日本語",
            "😀",
            "à",
            "la",
        ]
    ),
    min_size=1,
    max_size=8,
).map(" ".join)


def cleaned(line, **options):
    return LineCleaner(Cleaning(**options))(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plain text\n", "plain text\n"),
        ("cafÃ© dâ€™Ã©tÃ©\n", "café d’été\n"),
        ("voilÃ  la\n", "voilà la\n"),
        ("e\u0301 A\u030a\n", "é Å\n"),
        ("a\x00b\x07\x7f\ufeff\n", "ab\n"),
        ("red \x1b[31mtext\x1b[0m\n", "red text\n"),
        ("one\x0btwo\x0cthree\u2028four\u2029five\n", "one\ntwo\nthree\nfour\nfive\n"),
        ("tail \t\xa0\n", "tail\n"),
        (" head  two\tx\n", " head  two\tx\n"),
        ("a<|endoftext|>b<|endo<|endoftext|>ftext|>\n", "ab\n"),
        ("lone \ud83d pair \ud83d\ude00\n", "lone \ufffd pair 😀\n"),
        ("&amp; ﬁ\n", "&amp; ﬁ\n"),
        ("\n", "\n"),
    ],
)
def test_lines_as_they_become_by_default(line, expected):
    assert cleaned(line) == expected


@pytest.mark.parametrize(
    ("options", "line", "expected"),
    [
        ({"repair": False}, "cafÃ©\n", "cafÃ©\n"),
        ({"repair": False}, "a\x85b\n", "a\nb\n"),
        ({"unescape_html": True}, "&lt;b&gt; &amp; &#233;&#13;&#7;x\n", "<b> & é\nx\n"),
        ({"normal_form": "nfkc"}, "ﬁ Ａ ²\xa0x\n", "fi A 2 x\n"),
        ({"normal_form": "none"}, "e\u0301\n", "e\u0301\n"),
        ({"lowercase": True}, "ÀB ΑΣ\n", "àb ας\n"),
        ({"lowercase": True, "normal_form": "nfkc"}, "ℌİ\n", "hi\u0307\n"),
        ({"whitespace": "keep"}, " a \t\n", " a \t\n"),
        ({"whitespace": "collapse"}, " a \t\u3000 b  \n", "a b\n"),
        ({"mark": ""}, "a<|endoftext|>\n", "a<|endoftext|>\n"),
        ({"mark": "é"}, "ae\u0301b\n", "ab\n"),
    ],
)
def test_options(options, line, expected):
    assert cleaned(line, **options) == expected


def test_what_was_done_is_counted():
    cleaner = LineCleaner(Cleaning(unescape_html=True, lowercase=True))
    for line in ("cafÃ©\n", "&amp;\n", "x\x01\x02\n", "E\u0301\n", "<|endoftext|>\n", "plain\n"):
        cleaner(line)
    counts = cleaner.counts
    assert (counts.repaired_lines, counts.normalized_lines) == (2, 1)
    assert (counts.removed_characters, counts.removed_marks) == (2, 1)


@given(ANY_LINE, FORMS, SPACES, st.booleans(), st.sampled_from(["", "<|endoftext|>", "a b"]))
def test_cleaning_twice_is_cleaning_once(line, form, whitespace, lowercase, mark):
    options = {"normal_form": form, "whitespace": whitespace, "lowercase": lowercase}
    cleaner = LineCleaner(Cleaning(repair=False, mark=mark, **options))
    once = cleaner(line + "\n")
    assert "".join(cleaner(part + "\n") for part in once.split("\n")[:-1]) == once
    assert once.endswith("\n")
    assert not mark or mark not in once
    once.encode("utf-8")
    for character in once:
        assert unicodedata.category(character) != "Cc" or character in "\t\n"
    if form != "none":
        assert all(unicodedata.is_normalized("NFC", part) for part in once.split("\n"))
    if whitespace == "collapse":
        assert all(part == " ".join(part.split()) for part in once.split("\n"))
    if whitespace == "trim":
        assert all(part == part.rstrip() for part in once.split("\n"))


@given(ANY_LINE, st.lists(st.integers(0, 100), max_size=4))
def test_parts_of_a_line_are_cleaned_as_the_line_is(line, places):
    """Where they are cut before a space, as the reader cuts them."""
    line = "".join(c for c in line if c.isascii() and c.isprintable()) + "x"
    spaces = [i for i in range(1, len(line)) if line[i] == " " and line[i - 1] != " "]
    cuts = sorted({spaces[place % len(spaces)] for place in places} if spaces else set())
    for whitespace in ("trim", "collapse"):
        cleaner = LineCleaner(Cleaning(whitespace=whitespace))
        bounds = [0, *cuts, len(line)]
        parts = [line[a:b] for a, b in itertools.pairwise(bounds)]
        found = "".join(cleaner(part) for part in [*parts[:-1], parts[-1] + "\n"])
        assert found == cleaned(line + "\n", whitespace=whitespace)


@given(
    SENTENCES,
    st.sampled_from(["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "macroman", "cp437"]),
    st.booleans(),
)
def test_wrong_decodings_are_repaired_as_ftfy_repairs_them(sentence, encoding, lose_no_break):
    """The quick look before the search must let nothing through that the search would change."""
    ftfy.fix_encoding("")
    wrong = sentence.encode("utf-8").decode(encoding, "replace")
    if lose_no_break:
        wrong = wrong.replace("\xa0", " ")
    repaired = ftfy.fix_encoding(wrong)
    options = {"normal_form": "none", "whitespace": "keep", "mark": ""}
    found = LineCleaner(Cleaning(**options))(wrong + "\n")
    unrepaired = LineCleaner(Cleaning(repair=False, **options))(repaired + "\n")
    assert found == unrepaired


@given(st.text(st.characters(min_codepoint=0x80, max_codepoint=0x2FF) | st.sampled_from(" a")))
def test_the_quick_look_lets_nothing_through(text):
    if ftfy.fix_encoding(text) != text:
        cleaner = LineCleaner(Cleaning(normal_form="none", whitespace="keep"))
        cleaner(text + "\n")
        assert cleaner.counts.repaired_lines == 1


def test_marks_that_cannot_be():
    for mark in (" x", "a\nb", "\n"):
        with pytest.raises(DataError, match="must be one line without whitespace around it"):
            Cleaning(mark=mark)
