"""The neural networks of deliverable D3.3, annex A, and of Benzaïd et al., section IV (torch).

Layers and sizes are the documents'. A classifier's last layer gives a figure for each kind that
it knows; what it does not know is told by a rule, how far it is from all that is known, and not by
a class of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import max_pool1d, pad, relu


class _Classes(nn.Module):
    """A network whose first output has a figure for each kind."""

    @torch.no_grad()
    def told(self, windows: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the number of the likeliest kind of each window."""
        logits = self(torch.from_numpy(windows))[0]
        return np.asarray(logits.argmax(1).numpy(), np.int64)

    @torch.no_grad()
    def distances(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how far each window is from all that was learned."""
        return np.asarray(self(torch.from_numpy(windows))[1].numpy())


class Detector1D(_Classes):
    """The light 1D-CNN of annex A: normal or not."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, 16, 5, padding=2)
        self.norm = nn.BatchNorm1d(16)
        self.depthwise = nn.Conv1d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv1d(16, 32, 1)
        self.last = nn.Conv1d(32, 64, 3, padding=1)
        self.dropout = nn.Dropout(0.25)
        self.dense = nn.Linear(64, 32)
        self.out = nn.Linear(32, 2)

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Return logits (n, 2)."""
        x = self.norm(relu(self.first(windows.transpose(1, 2))))
        x = max_pool1d(relu(self.pointwise(self.depthwise(x))), 2)
        x = relu(self.last(x)).mean(2)
        return (self.out(relu(self.dense(self.dropout(x)))),)


class Classifier1D(_Classes):
    """The larger 1D-CNN of annex A: which anomaly it is."""

    centres: Tensor
    whitening: Tensor

    def __init__(self, channels: int, kinds: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, 32, 5, padding=2)
        self.norm = nn.BatchNorm1d(32)
        self.second = nn.Conv1d(32, 64, 3, padding=1)
        self.last = nn.Conv1d(64, 128, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.dense = nn.Linear(128, 64)
        self.out = nn.Linear(64, kinds)
        self.register_buffer("centres", torch.zeros(kinds, 128))
        self.register_buffer("whitening", torch.eye(128))

    def pooled(self, windows: Tensor) -> Tensor:
        """Return what the last convolution found, (n, 128)."""
        x = relu(self.second(self.norm(relu(self.first(windows.transpose(1, 2))))))
        return relu(self.last(max_pool1d(x, 2))).mean(2)

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Return logits (n, kinds), and how far a window is from all that was learned (n,).

        That is the Mahalanobis distance to the nearest kind's centre (Lee et al., 2018).
        """
        x = self.pooled(windows)
        logits = self.out(relu(self.dense(self.dropout(x))))
        apart = (x[:, None, :] - self.centres[None]) @ self.whitening
        return logits, apart.pow(2).sum(2).min(1).values.sqrt()

    @torch.no_grad()
    def learn_distances(self, windows: Tensor, kinds: Tensor) -> None:
        """Take centres and spread of the kinds from what the network was trained on."""
        pooled = self.pooled(windows)
        found = [int(kind) for kind in kinds.unique()]
        centres = torch.full_like(self.centres, 1e6)  # a kind that nothing belongs to is far
        for kind in found:
            centres[kind] = pooled[kinds == kind].mean(0)
        apart = pooled - centres[kinds]
        spread = apart.T @ apart / len(apart)
        spread += 1e-2 * spread.trace() / len(spread) * torch.eye(len(spread))
        values, vectors = torch.linalg.eigh(spread)
        self.centres.copy_(centres)
        self.whitening.copy_(vectors / values.sqrt())


class Autoencoder(nn.Module):
    """The LSTM autoencoder of Benzaïd et al.: what cannot be rebuilt is not normal."""

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.encoder = nn.LSTM(channels, hidden, batch_first=True)
        self.decoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, channels - 1)

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Return the windows rebuilt, without the last channel: (n, rows, metrics)."""
        _, (state, _) = self.encoder(windows)
        repeated = state[-1][:, None, :].repeat(1, windows.shape[1], 1)
        decoded, _ = self.decoder(repeated)
        return (self.out(decoded),)


class Forecaster1D(nn.Module):
    """The LSTM of annex A that forecasts load."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, 32, 3)
        self.norm = nn.BatchNorm1d(32)
        self.dropout = nn.Dropout(0.1)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.between = nn.Dropout(0.2)
        self.second = nn.LSTM(64, 32, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.out = nn.Linear(16, outputs)

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Return by how much each target changes until each horizon: (n, horizons x targets)."""
        x = relu(self.first(pad(windows.transpose(1, 2), (2, 0))))  # causal
        x, _ = self.lstm(self.dropout(self.norm(x)).transpose(1, 2))
        x, _ = self.second(self.between(x))
        return (self.out(self.dense(x[:, -1])),)
