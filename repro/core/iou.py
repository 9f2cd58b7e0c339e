"""How predictions store the IoU of boxes, and the levels that MaxBoxAccV2 requires."""

IOU_UNITS = 10_000  # stored for an IoU of 1; rounded down: exact at every .0001
IOUS_V2 = (0.3, 0.5, 0.7)  # of MaxBoxAccV2 (Choe et al. 2020), in turn
