"""`search.py` in Lightning: each run has a trainer of its own."""
# pyright: reportMissingImports=false

import lightning
import numpy as np
import torch
from tasks_data import digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy as accuracy_of

RATES, SEEDS, EPOCHS = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], range(3), 5


class Classifier(lightning.LightningModule):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, index):
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("accuracy", accuracy_of(self.model(batch[0]), batch[1], task="multiclass", num_classes=10))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.rate)


training, validation = (TensorDataset(torch.tensor(x), torch.tensor(y).long()) for x, y in digits())
accuracies = np.zeros((len(RATES), len(SEEDS)))
for row, column in np.ndindex(accuracies.shape):
    lightning.seed_everything(SEEDS[column], verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "log_every_n_steps": 1}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(
        Classifier(RATES[row]), DataLoader(training, 100, shuffle=True, drop_last=True), DataLoader(validation, 256)
    )
    accuracies[row, column] = trainer.callback_metrics["accuracy"].item()
for rate, found in zip(RATES, accuracies, strict=True):
    print(f"rate {rate:.4f}: validation accuracy {found.mean():.2%}, from {found.min():.2%} to {found.max():.2%}")
