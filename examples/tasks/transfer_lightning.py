"""`transfer.py` in Lightning."""
# pyright: reportMissingImports=false

import lightning
import torch
from tasks_data import old_and_new_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy as accuracy_of


class Classifier(lightning.LightningModule):
    def __init__(self, body, peaks=None):
        super().__init__()
        self.body, self.head, self.peaks = body, nn.Linear(64, 5), peaks

    def forward(self, images):
        return self.head(self.body(images))

    def training_step(self, batch, index):
        return cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, index):
        self.log("accuracy", accuracy_of(self(batch[0]), batch[1], task="multiclass", num_classes=5))

    def configure_optimizers(self):
        if self.peaks is None:
            return torch.optim.Adam(self.parameters(), 1e-3)
        optimizer = torch.optim.Adam([{"params": part.parameters()} for part in (self.body, self.head)])
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.peaks, steps, pct_start=0.1, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def trainer(epochs):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=1
    )


lightning.seed_everything(0)
old, new, test = (TensorDataset(torch.tensor(x), torch.tensor(y).long()) for x, y in old_and_new_digits())
body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
trainer(10).fit(Classifier(body), DataLoader(old, 25, shuffle=True, drop_last=True))
model, second = Classifier(body, peaks=[1e-3, 1e-2]), trainer(40)
second.fit(model, DataLoader(new, 25, shuffle=True, drop_last=True))
accuracy = second.test(model, DataLoader(test, 256))[0]["accuracy"]
print(f"Test accuracy after {len(new)} examples: {accuracy:.2%}")
