"""What things are: frozen values that every other room speaks of.

Values that cross the wire are msgspec structs that forbid unknown fields and bound every string
and list, so that decoding is the whole check of shape.
"""
