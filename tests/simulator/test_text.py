"""Tokens, answers and stop strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.sampling import OUTPUT_TOKENS, Answer, TextFilter, seed_of
from simulator.tokenizer import VOCABULARY, decode, encode, token_bytes


@given(st.text())
def test_text_survives_encoding(text: str) -> None:
    tokens = encode(text)
    assert decode(tokens) == text
    assert all(0 <= token < VOCABULARY for token in tokens)


@given(st.integers(0, VOCABULARY - 1))
def test_every_id_of_the_vocabulary_has_a_text_of_at_most_four_bytes(token: int) -> None:
    assert 1 <= len(token_bytes(token)) <= 4


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_an_id_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        decode([token])


def test_an_answer_encodes_to_its_own_tokens() -> None:
    assert encode(decode(OUTPUT_TOKENS)) == OUTPUT_TOKENS


def test_a_fixed_seed_or_temperature_zero_gives_the_same_answer() -> None:
    def words(seed: int) -> list[int]:
        answer = Answer(seed)
        return [answer.length, *(answer.next_token() for _ in range(20))]

    prompt = encode("the same question")
    assert words(seed_of(prompt, None, 0.0, 0)) == words(seed_of(prompt, None, 0.0, 0))
    assert words(seed_of(prompt, 5, 1.0, 0)) == words(seed_of(prompt, 5, 1.0, 0))
    assert words(seed_of(prompt, 5, 1.0, 0)) != words(seed_of(prompt, 5, 1.0, 1))
    assert words(seed_of(prompt, None, 1.0, 0)) != words(seed_of(prompt, None, 1.0, 0))


def test_answers_end_by_themselves_around_200_tokens() -> None:
    lengths = [Answer(seed).length for seed in range(2000)]
    assert 180 < sum(lengths) / len(lengths) < 220
    assert min(lengths) >= 1
    assert Answer(3, min_tokens=10_000).length == 10_000


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2))
def test_a_stop_string_ends_the_text_where_it_first_appears(text: str, stops: list[str]) -> None:
    filter_ = TextFilter(stops)
    said = ""
    tokens = [token for letter in text for token in encode(letter)]
    for place, token in enumerate(tokens):
        said += filter_.push(token, last=place == len(tokens) - 1)
        if filter_.stopped is not None:
            break
    first = min((text.find(stop) for stop in stops if stop in text), default=None)
    if first is None:
        assert (said, filter_.stopped) == (text, None)
    else:
        assert filter_.stopped is not None
        seen = text[: text.index(filter_.stopped, len(said)) + len(filter_.stopped)]
        assert said == seen[: -len(filter_.stopped)]
        assert not any(stop in said for stop in stops)
