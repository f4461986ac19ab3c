"""Mixture of experts: routing, ties, every type, one token and many."""

import numpy as np
import pytest

from . import reference
from .building import TYPES, Net

EXPERTS, WIDTH, HIDDEN = 6, 256, 512


class Layer:
    def __init__(
        self, isa, router="F32", inner="F32", down="F32", *, router_values=None, **options
    ):
        self.options = {"used": 2, "normalise": True, "scale": 1.0, "kind": "silu", **options}
        random = np.random.default_rng(1)
        self.x = random.standard_normal((40, WIDTH)).astype(np.float32)
        shapes = {
            "gate": (EXPERTS, HIDDEN, WIDTH),
            "up": (EXPERTS, HIDDEN, WIDTH),
            "down": (EXPERTS, WIDTH, HIDDEN),
        }
        types = {"gate": inner, "up": inner, "down": down}
        net = Net(isa)
        self.values = {}
        ids = {}
        if router_values is None:
            ids["router"], self.values["router"] = net.random_weight(
                random, router, (EXPERTS, WIDTH)
            )
        else:
            self.values["router"] = router_values.astype(np.float32)
            ids["router"] = net.weight(
                "F32", 1, EXPERTS, WIDTH, self.values["router"].reshape(-1).view(np.uint8)
            )
        for name, shape in shapes.items():
            ids[name], self.values[name] = net.random_weight(random, types[name], shape)
        types["router"] = router
        self.types = [types[name] for name in ("router", *shapes)]
        out = net.buffer(WIDTH)
        # small inputs keep the activation in its curved part
        self.x *= np.float32(0.3 / np.std(self.values["gate"][0] @ self.x[0]))
        net.moe(out, net.input(self.x), **ids, **self.options)
        self.net = net.finish({"y": (out, WIDTH)})

    def check(self, tokens):
        found = self.net.run(tokens)["y"]
        expected = reference.moe(
            self.x[tokens], **self.values, **self.options, types=self.types, isa=self.net.isa
        )
        error = np.abs(found - expected).max(-1) / np.abs(expected).max(-1)
        if self.types[3] not in ("F32", "F16"):
            # float32 before the second rounding: a tie may fall the other way now and then
            assert np.median(error) < 1e-5
            assert error.max() < 5e-3
        else:
            assert error.max() < 1e-5
        return found


@pytest.mark.parametrize("used", [1, 2, 5, 6])
@pytest.mark.parametrize("normalise", [True, False])
def test_routing(isa, used, normalise):
    layer = Layer(isa, used=used, normalise=normalise, scale=1.0 if normalise else 2.5)
    for count in (1, 2, 7, 40):
        layer.check(list(range(count)))


@pytest.mark.parametrize("name", TYPES)
def test_types_of_experts(isa, name):
    layer = Layer(isa, router="F32", inner=name, down=name)
    for count in (1, 3, 17):
        layer.check(list(range(count)))


@pytest.mark.parametrize("router", TYPES)
def test_types_of_router(router):
    Layer("", router=router, kind="gelu").check(list(range(9)))


def test_different_types_for_the_two_halves(isa):
    Layer(isa, router="F16", inner="Q4_K", down="Q6_K").check(list(range(11)))
    Layer(isa, router="BF16", inner="F16", down="Q8_0").check(list(range(11)))
    Layer(isa, router="Q8_0", inner="Q5_K", down="F16").check(list(range(11)))


def test_equal_experts_are_taken_in_order(isa):
    """Experts 1, 3 and 4 tie for the second place: the first of them is used."""
    random = np.random.default_rng(2)
    router = random.standard_normal((EXPERTS, WIDTH)) * 0.1
    router[[1, 3, 4]] = router[1]
    router[[0, 2]] = router[0]
    layer = Layer(isa, router_values=router)
    found = layer.check(list(range(40)))
    np.testing.assert_array_equal(layer.net.run(range(40))["y"], found)


def test_all_experts_tie(isa):
    layer = Layer(isa, router_values=np.zeros((EXPERTS, WIDTH)), used=3)
    layer.check(list(range(20)))


def test_all_rows_choose_the_same_experts(isa):
    router = np.zeros((EXPERTS, WIDTH))
    layer = Layer(isa, router_values=router, inner="Q4_K", down="Q4_K", used=1)
    layer.check(list(range(37)))
