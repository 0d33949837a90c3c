"""`texts.py` in Lightning."""
# pyright: reportMissingImports=false

import lightning
import numpy as np
import torch
from tasks_data import VOCABULARY, texts
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional import accuracy as accuracy_of


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=0)
        self.output = nn.Linear(16, 2)

    def forward(self, tokens):
        lengths = (tokens != 0).sum(1, keepdim=True)
        return self.output(self.embedding(tokens).sum(1) / lengths)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        logits = self(batch[0])
        self.log("accuracy", accuracy_of(logits, batch[1], task="multiclass", num_classes=2), batch_size=len(logits))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class BySize:
    """Batches of texts of similar lengths, in another order in each epoch."""

    def __init__(self, samples, batch_size):
        self.samples, self.batch_size, self.random = samples, batch_size, np.random.default_rng(0)

    def __iter__(self):
        order = sorted(self.random.permutation(len(self.samples)), key=lambda index: len(self.samples[index][0]))
        batches = np.array_split(np.array(order), -(-len(order) // self.batch_size))
        self.random.shuffle(batches)
        return iter(batches)

    def __len__(self):
        return -(-len(self.samples) // self.batch_size)


def pad(samples):
    tokens, labels = zip(*samples, strict=True)
    padded = nn.utils.rnn.pad_sequence([torch.tensor(text) for text in tokens], batch_first=True)
    return padded, torch.tensor(np.array(labels)).long()


lightning.seed_everything(0)
training, validation = texts()
trainer = lightning.Trainer(max_epochs=15, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(
    Classifier(),
    DataLoader(training, batch_sampler=BySize(training, 32), collate_fn=pad),
    DataLoader(validation, 100, collate_fn=pad),
)
accuracy = trainer.callback_metrics["accuracy"].item()
print(f"Validation accuracy: {accuracy:.2%}")
