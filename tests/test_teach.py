"""What makes the embedded text encoder tell left from right."""

import helpers
import jax
import numpy as np

from ldm_jax import system, tokenizers
from ldm_jax.data import datasets
from ldm_jax.demo import teach

BOXES = [(0.0, 0.4, 0.4, 0.6), (0.6, 0.4, 1.0, 0.6)]


def test_every_mention_of_a_thing_knows_its_box():
    taxi, oncoming = [5], [9, 5]
    tokens = np.array([2, 9, 5, 7, 5, 3, 9, 5, 0])
    where, named = teach.targets(tokens, [taxi, oncoming], BOXES)
    assert named.tolist() == [0, 1, 1, 0, 1, 0, 1, 1, 0]
    across = where[:, 0] * teach.SPREADS[0] + teach.MEANS[0]
    np.testing.assert_allclose(across[[1, 2, 6, 7]], 0.8, atol=1e-6)
    np.testing.assert_allclose(across[4], 0.2, atol=1e-6)
    assert not where[~named].any()


def test_a_taught_encoder_says_where_things_are():
    c = helpers.tiny_config()
    c.cond_stage.length = 80
    scenes = datasets.DRAWN["emoji_lessons"]("train", 0, 32)
    examples = [scenes[i] for i in range(60)]
    told = teach.lessons(examples, tokenizers.load(c.cond_stage))
    things = [np.sum(example["sprites"] >= 0) for example in examples]
    assert len(told[0]) == np.sum(np.array(things) > 1) == 48
    assert told[2].sum() >= np.sum(things) - 12
    built = system.build(c)
    shapes = jax.eval_shape(built.init, jax.random.key(0))["cond_stage"]
    params = helpers.random_params(shapes)

    def encode(params, tokens):
        return built.condition({"cond_stage": params}, {"tokens": tokens}).context

    _, before = teach.teach(encode, params, told, 2)
    _, after = teach.teach(encode, params, told, 400)
    assert after < 0.7 * before
