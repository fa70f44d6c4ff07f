"""Captions to an embedding store, for `imagen embed`.

  imagen embed --config=configs/embed.py:minilm --captions=captions.txt \
    --out=store
  imagen embed --config=configs/embed.py:encoders/t5_xxl \
    --config.text.precision=bfloat16 --captions=captions.jsonl --out=store

The argument is the encoder: a name, the folder of a T5, CLIP or BERT, or a T5X
checkpoint. The flags of the command set the same fields.
"""

from ml_collections import ConfigDict


def get_config(encoder: str = "minilm") -> ConfigDict:
  """The config of a job; `max_length` 0 is the encoder's own."""
  return ConfigDict(
    {
      "captions": (),  # paths, or tfds:..., seqio:..., emoji
      "field": "",  # the column or field of the captions; "" finds it
      "out": "",
      "text": {
        "encoder": encoder,
        "max_length": 0,
        "tokenizer": "",
        "clean": "none",  # or lower, deepfloyd
        "precision": "float32",  # or bfloat16, int8
        "penultimate": False,  # CLIP's states before its last layer
      },
      "store": {
        "dtype": "bfloat16",  # or int8: half of that, a scale for each token
        "shard_size": 4096,  # different captions in one file
      },
      "batch_size": 64,
      "tensor_parallel": 1,  # devices that share one copy of the weights
    }
  )
