"""Where a model and its adapters come from."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from headrace.config.model import ConfigModel, Name, PositiveInt, PositiveNumber
from headrace.config.problems import shown

CLOUD_SCHEMES = ("s3://", "gs://", "abfss://", "azure://", "pyarrow-")
"""How addresses in object stores begin."""


def is_cloud_address(source: str) -> bool:
    """Whether `source` names a bucket and no Hugging Face model or local folder."""
    return source.startswith(CLOUD_SCHEMES)


class ExtraFiles(ConfigModel):
    """Files to have beside the model.

    Attributes:
        bucket_uri: where they are.
        destination_path: the local folder that they go to.
    """

    title: ClassVar[str] = "wrong extra_files"

    bucket_uri: Name
    destination_path: Name


class CloudMirrorConfig(ConfigModel):
    """A bucket that holds a copy of the model.

    Attributes:
        bucket_uri: address that begins with `s3://`, `gs://`, `abfss://` or `azure://`.
        extra_files: more files to fetch.
    """

    title: ClassVar[str] = "wrong CloudMirrorConfig"

    bucket_uri: str | None = None
    extra_files: list[ExtraFiles] = Field(default_factory=list)

    @field_validator("bucket_uri")
    @classmethod
    def _of_a_bucket(cls, uri: str | None) -> str | None:
        if uri is not None and not is_cloud_address(uri):
            raise ValueError(f"must begin with 's3://', 'gs://', 'abfss://' or 'azure://', not {shown(uri)}")
        return uri

    @property
    def storage_type(self) -> str | None:
        """`s3`, `gcs`, `abfss` or `azure`; None without a `bucket_uri`."""
        if self.bucket_uri is None:
            return None
        scheme = self.bucket_uri.partition("://")[0]
        return {"gs": "gcs"}.get(scheme, scheme)


class ModelLoadingConfig(ConfigModel):
    """Which model, and under which name it is served.

    Attributes:
        model_id: the name by which clients ask for it.
        model_source: a Hugging Face id, a local folder or file, or a bucket; None for `model_id` as a Hugging Face id.
        tokenizer_source: a Hugging Face id or folder with the tokenizer; None for the model's own.
    """

    title: ClassVar[str] = "wrong model_loading_config"

    model_id: Name
    model_source: str | CloudMirrorConfig | None = None
    tokenizer_source: str | None = None


class LoraConfig(ConfigModel):
    """Adapters over the model, which clients ask for as `<model id>:<adapter>`.

    Attributes:
        dynamic_lora_loading_path: local folder, or bucket, with one folder per adapter; None where adapters are only
            those that the engine was started with.
        max_num_adapters_per_replica: adapters that one replica holds; the one used longest ago makes room.
        download_timeout_s: seconds that fetching one adapter may take; None for any time.
        max_download_tries: how often fetching is tried.
    """

    title: ClassVar[str] = "wrong lora_config"

    dynamic_lora_loading_path: str | None = None
    max_num_adapters_per_replica: PositiveInt = 16
    download_timeout_s: PositiveNumber | None = 30.0
    max_download_tries: PositiveInt = 3

    @field_validator("dynamic_lora_loading_path")
    @classmethod
    def _without_trailing_slash(cls, path: str | None) -> str | None:
        return path if path is None else path.rstrip("/") or "/"
