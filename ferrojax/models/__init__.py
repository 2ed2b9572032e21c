"""Networks: arrays in, arrays out."""

from ferrojax.models.displacement import DisplacementNet as DisplacementNet
