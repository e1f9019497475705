"""tensorflow-datasets builders for face sets that nobody may redistribute, from users' own copies.

They need the extra `data` and no TensorFlow: the images' own bytes go into array_record files.
"""
