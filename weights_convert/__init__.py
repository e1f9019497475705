"""Released FaceNet weights into checkpoints of ``advface_jax``, without PyTorch or TensorFlow.

``python -m weights_convert --help`` is the way in; ``conversion.convert_file`` does the same from
Python.  ``sources`` reads files, ``tables`` maps names, ``rules`` sees that nothing is left over.
"""
