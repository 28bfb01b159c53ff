"""What requests hold, as OpenAPI tells it: every number has its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vesearch.question import (
    Boxed,
    Example,
    Numbered,
    Photo,
    Pointed,
    Question,
    Stored,
    Where,
    Whole,
    period_of,
)

MOST_EXAMPLES = 100  # of either kind: what was marked right and wrong are such
MOST_OF_PHOTOS = 40  # which may have to be decoded, each
MOST_MATCHES = 200
_Pixel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
_Id = Annotated[int, Field(ge=0, lt=2**62)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExampleIn(_Strict):
    """One thing: an entity of the collection, or something of a photo."""

    entity_id: _Id | None = Field(None, description="an entity of the collection")
    photo: str | None = Field(None, max_length=64, description="what POST /api/entities returned")
    image: _Id | None = Field(None, description="or a photo of the collection")
    entity: int | None = Field(None, ge=1, le=1000, description="the number of its entity")
    box: tuple[_Pixel, _Pixel, _Pixel, _Pixel] | None = Field(None, description="or a box, px")
    point: tuple[_Pixel, _Pixel] | None = Field(None, description="or the entity at a point, px")
    whole: bool = Field(False, description="or all of it")

    @model_validator(mode="after")
    def _is_one(self) -> ExampleIn:
        of_photo = sum(v is not None for v in (self.entity, self.box, self.point)) + self.whole
        photos = (self.photo is not None) + (self.image is not None)
        wanted = (0, 0) if self.entity_id is not None else (1, 1)
        if (photos, of_photo) != wanted:
            raise ValueError(
                "give an entity_id alone, or one of photo and image with one of entity, box, "
                "point and whole"
            )
        return self

    def example(self, photo: Photo | None) -> Example:
        """Return it, of a photo that was looked at."""
        if self.entity_id is not None or photo is None:
            return Stored(self.entity_id or 0)
        if self.entity is not None:
            return Numbered(photo, self.entity)
        if self.box is not None:
            return Boxed(photo, self.box)
        return Pointed(photo, self.point) if self.point is not None else Whole(photo)


class WhereIn(_Strict):
    """What a match must be."""

    places: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field([], max_length=20)
    since: str | None = Field(None, max_length=20, description="2024, 2024-05 or 2024-05-31")
    until: str | None = Field(None, max_length=20)
    min_area: float = Field(0, ge=0, le=1, description="share of its photo")
    stuff: bool = Field(True, description="background too")
    label: str | None = Field(None, max_length=200)
    min_similarity: float = Field(-1, ge=-1, le=1)
    per_image: bool = True
    include_self: bool = False
    fold: bool = True

    @model_validator(mode="after")
    def _is_when(self) -> WhereIn:
        for text in (self.since, self.until):
            if text is not None:
                period_of(text)
        return self

    def where(self) -> Where:
        """Return it as a question has it."""
        return Where(**{**self.model_dump(), "places": tuple(self.places)})


class SearchIn(_Strict):
    """A question."""

    positives: list[ExampleIn] = Field(min_length=1, max_length=MOST_EXAMPLES)
    negatives: list[ExampleIn] = Field([], max_length=MOST_EXAMPLES)
    mode: Literal["mean", "all"] = "mean"
    where: WhereIn = WhereIn()  # type: ignore[call-arg]
    top: int = Field(24, ge=1, le=MOST_MATCHES)
    min_confidence: float = Field(0.5, ge=0, le=1)
    explain: bool = Field(False, description="with the spots that agree")

    @model_validator(mode="after")
    def _goes_together(self) -> SearchIn:
        if self.explain and self.mode == "all":
            raise ValueError("spots are of one example: they do not go with mode all")
        of_photos = [e for e in (*self.positives, *self.negatives) if e.entity_id is None]
        if len(of_photos) > MOST_OF_PHOTOS:
            raise ValueError(f"at most {MOST_OF_PHOTOS} examples are given without an entity_id")
        return self

    def question(self, positives: tuple[Example, ...], negatives: tuple[Example, ...]) -> Question:
        """Return it, with its examples."""
        return Question(
            positives,
            negatives,
            self.where.where(),
            self.top,
            min_confidence=self.min_confidence,
            mode=self.mode,
            explain=self.explain,
        )
