"""Captions and seqio: tasks of ours for T5X users, captions of their tasks.

  register_caption_task(
    "my_captions",
    source={"train": caption_sources.open_captions("captions.jsonl")},
    vocabulary="spiece.model",
  )

  source -> field -> tokenise -> trim to length - 1 -> end token

  seqio.get_dataset(
    "my_captions", {"caption": 128}, feature_converter(), "train"
  )                                     yields ids [l] int32, mask [l] bool

Ids are those of `text.tokenizers` for the same model. Nothing is registered,
and seqio is not imported, until a function is called.
"""

import functools
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from imagen_jax.core import errors
from imagen_jax.data import caption_fields, seqio_tasks

FEATURE = "caption"
# A task keeps the text beside the ids under a longer name.
PREFERRED = (
  "caption_pretokenized",
  "caption",
  "inputs_pretokenized",
  "inputs",
  "text",
)


def register_caption_task(
  name: str,
  *,
  source: Any,
  vocabulary: Any,
  max_length: int = 128,
  field: str = FEATURE,
) -> Any:
  """Registers a seqio task with the output feature "caption", and returns it.

  `source` is {split: captions that can be read again}, or a seqio.DataSource of
  lines, or of examples with the captions in `field` ("captions/text" for
  coco_captions). `vocabulary` is a seqio.Vocabulary or the path of a
  sentencepiece model. A caption has at most `max_length` ids, the end token
  among them, or fewer if seqio is asked for a shorter "caption".
  """
  seqio = seqio_tasks.load()
  if name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}:
    raise errors.BadInput(
      f"seqio already has a task or mixture {name!r}; choose another name, or"
      f" call seqio.TaskRegistry.remove({name!r}) first."
    )
  if max_length < 1:
    raise errors.BadInput(
      f"max_length {max_length} leaves no room for the end token; use 1 or"
      " more."
    )
  if isinstance(source, Mapping):
    source = _function_source(source)
    field = FEATURE
  if isinstance(vocabulary, (str, os.PathLike)):
    vocabulary = seqio.SentencePieceVocabulary(os.fspath(vocabulary))
  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      functools.partial(_captions, field=field),
      seqio.preprocessors.tokenize,
      functools.partial(_trim_and_end, max_length=max_length),
    ],
    output_features={FEATURE: seqio.Feature(vocabulary, add_eos=True)},
  )


def _function_source(captions: Mapping[str, Iterable[str]]) -> Any:
  """A seqio source of captions by split."""
  import tensorflow as tf

  def dataset(
    split: str, shuffle_files: bool = False, seed: int | None = None
  ) -> Any:
    return tf.data.Dataset.from_generator(
      lambda: ({FEATURE: text} for text in captions[split]),
      output_signature={FEATURE: tf.TensorSpec((), tf.string)},
    )

  return seqio_tasks.load().FunctionDataSource(dataset, splits=tuple(captions))


def _captions(dataset: Any, *, field: str) -> Any:
  """Examples -> one {"caption": text} for each of their captions."""
  import tensorflow as tf

  spec, keys = dataset.element_spec, []
  if isinstance(spec, Mapping):  # and not lines of text
    keys = [field] if field in spec else field.split("/")
  for key in keys:
    spec = spec[caption_fields.choose(key, list(spec), where="the source")]

  def texts(example: Any) -> Any:
    value = functools.reduce(operator.getitem, keys, example)
    return tf.data.Dataset.from_tensor_slices(
      {FEATURE: tf.reshape(value, [-1])}
    )

  return dataset.flat_map(texts)


def _trim_and_end(
  dataset: Any,
  output_features: Mapping[str, Any],
  sequence_length: Mapping[str, int] | None = None,
  *,
  max_length: int,
) -> Any:
  asked = (sequence_length or {}).get(FEATURE) or max_length
  return seqio_tasks.load().preprocessors.append_eos_after_trim(
    dataset, output_features, {FEATURE: min(asked, max_length)}
  )


def feature_converter() -> Any:
  """A seqio.FeatureConverter: "caption" -> "ids" and "mask", not packed."""
  import tensorflow as tf

  seqio = seqio_tasks.load()
  spec = seqio.FeatureConverter.FeatureSpec

  class CaptionFeatureConverter(seqio.FeatureConverter):
    """Pads ids to the length; the mask is true on all but the padding."""

    TASK_FEATURES = {FEATURE: spec(tf.int32)}  # noqa: RUF012
    MODEL_FEATURES = {"ids": spec(tf.int32), "mask": spec(tf.bool)}  # noqa: RUF012
    PACKING_FEATURE_DTYPES = None

    def _convert_features(
      self, dataset: Any, lengths: Mapping[str, int]
    ) -> Any:
      def convert(example: dict) -> dict:
        ids = example[FEATURE][: lengths[FEATURE]]
        padding = [[0, lengths[FEATURE] - tf.size(ids)]]
        return {
          "ids": tf.ensure_shape(tf.pad(ids, padding), [lengths[FEATURE]]),
          # By the length, as an id of the caption may be that of padding.
          "mask": tf.range(lengths[FEATURE]) < tf.size(ids),
        }

      return dataset.map(convert)

    def get_model_feature_lengths(
      self, lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
      return {"ids": lengths[FEATURE], "mask": lengths[FEATURE]}

  return CaptionFeatureConverter(pack=False)


def read(
  name: str, *, field: str | None = None, module: str | None = None
) -> Iterator[str | None]:
  """The captions of TASK_OR_MIXTURE[:SPLIT]; see `seqio_tasks`."""
  for task in seqio_tasks.open_name(name, module=module).tasks:
    where = f"the seqio task {task.name}"
    texts = [
      name
      for name, found in task.fields.items()
      if found.spec.dtype.name == "string"
    ]
    chosen = caption_fields.choose(
      field, texts, where=where, preferred=PREFERRED
    )
    for (value,) in task.read([chosen]):
      yield from caption_fields.texts(value, where=f"{chosen!r} of {where}")
