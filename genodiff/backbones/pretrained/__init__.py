"""Published weights in our networks, and back: Caduceus (Schiff et al. 2024), MDLM (Sahoo et al.
2024).

For each family: `*_node`, our network as a config node, in plain data; `load_*_state`, that
network with the published weights; `publish_*`, the published config and weights of a network of
ours; `*_names`, the published names of each name of ours.
"""

from genodiff.backbones.pretrained.caduceus import (
    caduceus_names,
    caduceus_node,
    load_caduceus_state,
    publish_caduceus,
    published_complement,
)
from genodiff.backbones.pretrained.dimamba import (
    dimamba_names,
    dimamba_node,
    load_dimamba_state,
    publish_dimamba,
)
from genodiff.backbones.pretrained.dit import dit_names, dit_node, load_dit_state, publish_dit

__all__ = [
    "caduceus_names",
    "caduceus_node",
    "dimamba_names",
    "dimamba_node",
    "dit_names",
    "dit_node",
    "load_caduceus_state",
    "load_dimamba_state",
    "load_dit_state",
    "publish_caduceus",
    "publish_dimamba",
    "publish_dit",
    "published_complement",
]
