"""`tabular.py` in Lightning."""
# pyright: reportMissingImports=false

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tasks_data import tabular
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy as accuracy_of


class Classifier(lightning.LightningModule):
    def __init__(self, class_weights):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
        self.loss = nn.CrossEntropyLoss(class_weights)

    def training_step(self, batch, index):
        return self.loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch, index):
        logits = self.model(batch[0])
        self.log("validation_loss", self.loss(logits, batch[1]))
        self.log("accuracy", accuracy_of(logits, batch[1], task="multiclass", num_classes=2))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


lightning.seed_everything(0)
sets = tabular()
training, validation, test = (TensorDataset(torch.tensor(x), torch.tensor(y).long()) for x, y in sets)
class_weights = torch.tensor(len(training) / (2 * np.bincount(sets[0][1])), dtype=torch.float32)
model = Classifier(class_weights)
best = ModelCheckpoint("run", "tabular", monitor="validation_loss", enable_version_counter=False)
trainer = lightning.Trainer(
    max_epochs=100,
    callbacks=[EarlyStopping("validation_loss", patience=5), best],
    accelerator="cpu",
    logger=False,
    log_every_n_steps=1,
)
trainer.fit(model, DataLoader(training, 32, shuffle=True, drop_last=True), DataLoader(validation, 256))
accuracy = trainer.test(model, DataLoader(test, 256), ckpt_path=best.best_model_path)[0]["accuracy"]
print(f"Stopped after {trainer.current_epoch} epochs. Test accuracy: {accuracy:.2%}")
