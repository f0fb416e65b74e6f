"""How to sample is checked at once; a function from prompts to texts becomes a Generate."""

import json

import pytest

from coldforge.eval.records import Ask, Reply, Sampling, from_function, question_seed


def ask(prompt, n=1, question="q"):
    return Ask("task", question, prompt, 0, n, 0, Sampling())


def test_the_defaults_are_the_papers():
    assert (Sampling().temperature, Sampling().top_p, Sampling().max_new_tokens) == (0.6, 0.95, 32_768)
    assert Sampling().samples is None
    assert not Sampling().is_greedy


def test_greedy():
    greedy = Sampling.greedy(max_new_tokens=10)
    assert greedy.is_greedy
    assert (greedy.samples, greedy.top_p, greedy.max_new_tokens) == (1, 1.0, 10)
    assert Sampling(**json.loads(json.dumps(greedy.to_dict()))) == greedy


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": 0, "samples": 4}, "greedy samples of a question are all the same"),
        ({"temperature": 0}, "greedy samples of a question are all the same"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        Sampling(**options)


def test_a_questions_seed_depends_on_nothing_else():
    seeds = {question_seed(seed, question) for seed in (0, 1) for question in ("a", "b", "c")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert question_seed(0, "a") == question_seed(0, "a")


def test_a_function_is_given_batches_and_each_prompt_once_for_each_sample():
    batches = []

    def function(prompts):
        batches.append(list(prompts))
        return [prompt.upper() for prompt in prompts]

    chat = ({"role": "system", "content": "be"}, {"role": "user", "content": "brief"})
    asks = [ask("one", 3), ask(chat, 1), ask("three", 2)]
    found = dict(from_function(function, batch=4)(asks))
    assert batches == [["one", "one", "one", "be\n\nbrief"], ["three", "three"]]
    assert found[0] == [Reply("ONE", 1, True)] * 3
    assert found[1] == [Reply("BE\n\nBRIEF", 2, True)]
    assert [len(found[place]) for place in range(3)] == [3, 1, 2]


def test_tokens_are_counted_and_prompts_rendered_as_one_likes():
    generate = from_function(lambda prompts: prompts, count=len, render=lambda prompt: f"<{prompt}>")
    assert list(generate([ask("ab")])) == [(0, [Reply("<ab>", 4, True)])]


@pytest.mark.parametrize(
    ("returned", "error", "named"),
    [
        (["a"], ValueError, "returned 1 texts for 2 prompts"),
        (["a", "b", "c"], ValueError, "returned 3 texts for 2 prompts"),
        ("ab", TypeError, "wanted a list of texts"),
        (["a", None], TypeError, "wanted a list of texts"),
        (None, TypeError, "wanted a list of texts"),
    ],
)
def test_a_function_that_returns_something_else_is_told(returned, error, named):
    with pytest.raises(error, match=named):
        list(from_function(lambda prompts: returned)([ask("x", 2)]))


def test_batch_is_checked():
    with pytest.raises(ValueError, match="batch is 0"):
        from_function(lambda prompts: prompts, batch=0)
