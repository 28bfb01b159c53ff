"""What `vesearch models` does: list, pull, and try what works on this machine.

Weights and networks themselves live in weights/, networks/, detectors/ and embedders/.
"""
