"""Total variation: closed forms."""

import torch

from datastill.functional.smoothness import total_variation


def test_flat_images_have_none() -> None:
    assert total_variation(torch.full((2, 3, 5, 5), 0.7)) == 0


def test_ramp_and_checkerboard() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    torch.testing.assert_close(total_variation(ramp), torch.tensor(1.0))  # one step across, none down
    board = (torch.arange(4)[:, None] + torch.arange(4)).remainder(2).float().expand(1, 1, 4, 4)
    torch.testing.assert_close(total_variation(board), torch.tensor(2.0))


def test_does_not_depend_on_how_many_images() -> None:
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(total_variation(torch.cat([x, x])), total_variation(x))
