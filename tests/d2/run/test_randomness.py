"""Draws that depend on a key alone, and states that are put back."""

import torch

from mask_former.d2.run.randomness import random_states, set_random_states


def test_random_states_are_put_back():
    states = random_states()
    first = torch.rand(3)
    set_random_states(states)
    assert torch.equal(torch.rand(3), first)
