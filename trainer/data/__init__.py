"""Images from disk to the model.

Reading order: random.py (draws) - order.py (which image when) - crop.py (which part of it) - loader.py (batches, read
ahead) - formats.py (which format a folder holds) - beton/, webdataset.py, image_folder.py with encoded.py, synthetic.py
(where images come from) - policies.py, augment.py, operations.py, device.py (to the model) - stream.py (all of it) -
resolution.py, mixing.py.
"""
