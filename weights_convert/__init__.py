"""Released FaceNet weights into checkpoints of ``advface_jax``, without PyTorch or TensorFlow.

Run ``python -m weights_convert --help``, or call ``conversion.convert_file``. ``sources`` reads
files, ``tables`` maps names, ``rules`` applies a table and lets nothing be left over.
"""
