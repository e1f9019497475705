"""tensorflow-datasets builders for face sets that nobody may hand on: users bring their own copy.

They need the extra `data` and no TensorFlow: the images' own bytes go into array_record files.
"""

BUILDERS = {  # on the command line: module and class
    "casia-webface": ("casia_webface", "CasiaWebface"),
    "cfp-fp": ("cfp_fp", "CfpFp"),
    "agedb-30": ("agedb_30", "Agedb30"),
}
