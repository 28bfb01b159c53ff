"""Networks, and the devices that they run on.

What is made of their outputs lives in detectors/ and embedders/.
"""
