from utils.data.samplers import epoch_order, sample_rng, step_seed


def draws(seed: int, epoch: int, index: int) -> tuple[float, float]:
    rng = sample_rng(seed, epoch, index)
    return rng.numpy.uniform(), rng.python.random()


def test_same_key_same_draws_other_key_other_draws() -> None:
    keys = [(s, e, i) for s in (0, 1, 15742315057023588855) for e in (0, 1) for i in (0, 1, 82080)]
    assert [draws(*key) for key in keys] == [draws(*key) for key in keys]
    numpy_draws, python_draws = zip(*(draws(*key) for key in keys), strict=True)
    assert len(set(numpy_draws)) == len(set(python_draws)) == len(keys)


def test_draws_are_pinned() -> None:
    # Resumed runs of an older version must continue alike: these values may not change.
    assert draws(0, 0, 0) == (0.6630280770507926, 0.3023484622230165)
    assert step_seed(0, 0, 0, 0) == 4215923173971654960


def test_step_seeds_differ_by_everything() -> None:
    seeds = {step_seed(s, e, t, r) for s in (0, 1) for e in (0, 1) for t in (0, 1, 7) for r in (0, 1)}
    assert len(seeds) == 24 and all(0 <= seed < 2**63 for seed in seeds)


def test_orders_are_permutations_of_their_epoch() -> None:
    orders = [epoch_order(100, 0, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert epoch_order(100, 0, 0) == orders[0] != epoch_order(100, 1, 0)
