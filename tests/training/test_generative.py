"""`GenerativeModule` and the labels of its batches."""

import torch

from genodiff.backbones import DiMamba
from genodiff.batch import TokenBatch
from genodiff.diffusion import Absorbing, ExactlyK, LogLinear, NetworkDenoiser, Subs
from genodiff.training import AdamWCosine, GenerativeModule
from tests.training import tiny


def test_a_model_with_classes_learns_what_each_is_made_of() -> None:
    # Sequences of class i are all of letter i: only the label tells a masked one apart.
    torch.manual_seed(0)
    network = DiMamba(
        4, 16, 1, d_state=4, cond_dim=16, n_classes=3, class_dropout=0.0, dropout=0.0
    )
    process = Absorbing(LogLinear(), 4, mask_id=3)
    model = NetworkDenoiser(network, process, Subs(4, mask_id=3))
    optimizer = AdamWCosine(lr=0.03)
    module = GenerativeModule(model, ExactlyK(), optimizer=optimizer, max_steps=150)
    labels = torch.arange(12) % 3
    batch = TokenBatch(labels[:, None].repeat(1, 6), torch.ones(12, 6), labels)
    steps = torch.optim.AdamW(module.parameters(), lr=0.03)
    for i in range(150):
        module.seed = i  # other masks every step
        steps.zero_grad()
        module.training_step(batch, 0)["loss"].backward()
        steps.step()
    model.eval()
    masked = process.prior((3, 6))
    with torch.no_grad():
        p = model.log_x0(masked, torch.ones(3, 1), torch.arange(3)).exp()
    assert float(p[torch.arange(3), :, torch.arange(3)].min()) > 0.9


def test_a_batch_without_labels_tells_the_network_nothing() -> None:
    module = tiny.module(max_steps=1)
    tokens = torch.zeros(2, tiny.LENGTH, dtype=torch.long)
    step = module.training_step(TokenBatch(tokens, torch.ones(2, tiny.LENGTH)), 0)
    assert bool(step["loss"].isfinite())  # its network takes no condition
