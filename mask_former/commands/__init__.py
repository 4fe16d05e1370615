"""The commands, a module each with ``main(argv)``; ``mask_former/__main__.py`` has their names.

``train_net.py``, ``demo/`` and ``tools/`` of a checkout are doors to them.
"""
