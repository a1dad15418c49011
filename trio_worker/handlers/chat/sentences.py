"""What the author of a query reads of the model, in the languages of ``WORKER_LANGUAGE``.

They say nothing of where the model is, or of what is wrong there: that is for the operator's log.
"""

from __future__ import annotations

import attrs

__all__ = ["ENGLISH", "RUSSIAN", "Sentences", "sentences"]


@attrs.frozen(kw_only=True)
class Sentences:
    """One language. The braces are filled by `str.format`."""

    no_project: str
    thinking: str
    begun: str
    going_on: str
    again: str
    steps_over: str
    not_now: str
    misconfigured: str
    refused_why: str
    filtered: str
    too_long: str
    cut_off: str
    used_up: str
    empty: str
    broken_off: str
    strange: str
    endless: str
    not_taken: str
    no_end: str


ENGLISH = Sentences(
    no_project="The project's settings can't be read just now; going on without them",
    thinking="The model is thinking",
    begun="The model has begun to write",
    going_on="The model is writing: {count} characters so far",
    again="The model is not available just now; again in {seconds} s",
    steps_over="The model has used up its rounds of tool calls ({count}), and is asked to answer now",
    not_now="The model is not available just now.",
    misconfigured="The model can't be used just now; the operator has been told.",
    refused_why="The model refuses to answer: {said}",
    filtered="The model's content filter has stopped the answer.",
    too_long="The query, with what it needs, is too long for the model.",
    cut_off="The model's answer was cut off at its greatest length. It began:\n\n{text}",
    used_up="The model had used up its greatest length before it began to answer.",
    empty="The model has given an empty answer.",
    broken_off="The model's answer broke off in the middle. Please ask again.",
    strange="The worker does not understand what the model says. The operator finds it in the worker's log.",
    endless="The model's answer had no end, and was stopped.",
    not_taken="The model does not take this query. The operator finds the reason in the worker's log.",
    no_end="The model goes on calling tools instead of answering (rounds so far: {count}).",
)

RUSSIAN = Sentences(
    no_project="Настройки проекта сейчас не прочитать; продолжаю без них",
    thinking="Модель думает",
    begun="Модель начала писать",
    going_on="Модель пишет, символов: {count}",
    again="Модель сейчас недоступна; следующая попытка через {seconds} с",
    steps_over="Модель исчерпала обращения к инструментам (кругов: {count}) и теперь должна ответить",
    not_now="Модель сейчас недоступна.",
    misconfigured="Моделью сейчас нельзя воспользоваться; оператору об этом сообщено.",
    refused_why="Модель отказалась отвечать: {said}",
    filtered="Ответ остановлен фильтром содержимого модели.",
    too_long="Запрос вместе с необходимыми данными слишком длинный для модели.",
    cut_off="Ответ модели обрезан: достигнута наибольшая длина. Начало ответа:\n\n{text}",
    used_up="Модель исчерпала наибольшую длину, не успев начать ответ.",
    empty="Модель дала пустой ответ.",
    broken_off="Ответ модели оборвался на середине. Пожалуйста, повторите запрос.",
    strange="Воркер не понимает, что отвечает модель. Её ответ записан в журнале воркера.",
    endless="Ответ модели не заканчивался и был остановлен.",
    not_taken="Модель не принимает этот запрос. Причина записана в журнале воркера.",
    no_end="Модель снова и снова обращается к инструментам вместо ответа (кругов: {count}).",
)


def sentences(language: str) -> Sentences:
    """Return the sentences of a language, ``"en"`` or ``"ru"``."""
    return {"en": ENGLISH, "ru": RUSSIAN}[language]
