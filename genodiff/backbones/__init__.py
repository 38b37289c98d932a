"""Networks: logits = backbone(tokens, sigma)."""

from genodiff.backbones.base import Backbone
from genodiff.backbones.caduceus import Caduceus
from genodiff.backbones.convolutional import ConvolutionalClassifier
from genodiff.backbones.dimamba import DiMamba
from genodiff.backbones.heads import SequenceClassifier
from genodiff.backbones.mamba import BiMamba, Mamba
from genodiff.backbones.masked_lm import MaskedLanguageModel
from genodiff.backbones.pretrained import (
    load_caduceus_state,
    load_dimamba_state,
    load_dit_state,
)
from genodiff.backbones.reverse_complement import (
    ReverseComplementEquivariant,
    StrandAveraged,
    StrandExchange,
    exchange_strands,
)
from genodiff.backbones.transformer import Transformer

__all__ = [
    "Backbone",
    "BiMamba",
    "Caduceus",
    "ConvolutionalClassifier",
    "DiMamba",
    "Mamba",
    "MaskedLanguageModel",
    "ReverseComplementEquivariant",
    "SequenceClassifier",
    "StrandAveraged",
    "StrandExchange",
    "Transformer",
    "exchange_strands",
    "load_caduceus_state",
    "load_dimamba_state",
    "load_dit_state",
]
