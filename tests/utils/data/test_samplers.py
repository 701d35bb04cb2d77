import pytest
from torch.utils.data import DataLoader

from utils.data.samplers import EpochBatchSampler


def batches(world: int, rank: int, **options: object) -> list[list[int]]:
    settings = {"shuffle": True, "seed": 3, "epoch": 2, **options}
    sampler = EpochBatchSampler(11, 4, rank=rank, world=world, **settings)  # type: ignore[arg-type]
    keys = list(sampler)
    assert len(keys) == len(sampler)
    assert all(epoch == 2 for batch in keys for epoch, _ in batch)
    return [[index for _, index in batch] for batch in keys]


def test_list_order_and_last_batch() -> None:
    assert batches(1, 0, shuffle=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_shuffled_epoch_sees_all_once_and_differs() -> None:
    flat = sum(batches(1, 0), [])
    assert sorted(flat) == list(range(11)) != flat
    other = EpochBatchSampler(11, 4, shuffle=True, seed=3, epoch=3)
    assert [index for batch in other for _, index in batch] != flat


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_the_same_global_batches(world: int) -> None:
    alone = batches(1, 0)
    shares = [batches(world, rank) for rank in range(world)]
    for position, batch in enumerate(alone):
        for rank in range(world):
            assert shares[rank][position] == (batch[rank::world] or batch[:1])


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_resuming_inside_an_epoch(start: int) -> None:
    assert batches(1, 0, start_batch=start) == batches(1, 0)[start:]


def test_a_loader_accepts_it() -> None:
    sampler = EpochBatchSampler(5, 2, shuffle=False, seed=0)
    data = {(0, i): i for i in range(5)}
    loader: DataLoader[int] = DataLoader(data, batch_sampler=sampler)  # type: ignore[arg-type]
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
