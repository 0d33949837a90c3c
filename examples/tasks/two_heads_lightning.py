"""`two_heads.py` in Lightning."""
# pyright: reportMissingImports=false

import lightning
import torch
from tasks_data import digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy as accuracy_of


class TwoHeads(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.digit = nn.Linear(64, 10)
        self.parity = nn.Linear(64, 2)

    def forward(self, images):
        features = self.body(images)
        return self.digit(features), self.parity(features)

    def training_step(self, batch, index):
        digit, parity = self(batch[0])
        digit_loss, parity_loss = cross_entropy(digit, batch[1]), cross_entropy(parity, batch[1] % 2)
        self.log_dict({"digit_loss": digit_loss, "parity_loss": parity_loss})
        return digit_loss + 0.5 * parity_loss

    def validation_step(self, batch, index):
        digit, parity = self(batch[0])
        self.log("digit", accuracy_of(digit, batch[1], task="multiclass", num_classes=10))
        self.log("parity", accuracy_of(parity, batch[1] % 2, task="multiclass", num_classes=2))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


lightning.seed_everything(0)
training, validation = (TensorDataset(torch.tensor(x), torch.tensor(y).long()) for x, y in digits())
trainer = lightning.Trainer(
    max_epochs=15, accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=1
)
trainer.fit(TwoHeads(), DataLoader(training, 32, shuffle=True, drop_last=True), DataLoader(validation, 256))
accuracies = {head: trainer.callback_metrics[head].item() for head in ("digit", "parity")}
print(f"Validation accuracy: {accuracies['digit']:.2%} for the digit, {accuracies['parity']:.2%} for its parity")
