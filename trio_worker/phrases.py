"""The sentences that WebBuddy's users read, in the languages of ``WORKER_LANGUAGE``.

The operator's log is not made of these: it is always English.
"""

from __future__ import annotations

import attrs

__all__ = ["ENGLISH", "RUSSIAN", "Phrases", "phrases"]

# .10g for a limit: 0.5, 300, 2592000. A plain g turns the last, 30 days, into "2.592e+06".


@attrs.frozen(kw_only=True)
class Phrases:
    """One language. The braces are filled by `str.format`."""

    claimed: str
    claimed_push: str
    claimed_poll: str
    started: str
    done: str
    failed: str
    put_back: str
    timeout: str
    left_behind: str
    error: str
    process_died: str
    process_killed: str
    exit_status: str
    not_started: str
    no_answer: str
    wrong_answer: str
    empty_answer: str
    empty_reason: str
    stopping: str
    waits: str
    again: str
    again_after_crash: str
    postponed: str
    too_often: str
    crashed: str
    crashed_once: str
    requeued: str
    put_back_crash: str
    not_written: str
    given_up: str
    refused: str
    cut: str
    left_out: str


ENGLISH = Phrases(
    claimed="Claimed by {worker} ({source})",
    claimed_push="push",
    claimed_poll="poll",
    started="Started, time limit {limit:.10g} s",
    done="Done after {seconds:.1f} s",
    failed="Failed after {seconds:.1f} s: {reason}",
    put_back="Put back into the queue after {seconds:.1f} s: {reason}",
    timeout="The agent ran past its time limit of {limit:.10g} s and was stopped.",
    left_behind="The agent ran past its time limit of {limit:.10g} s and could not be stopped.",
    error="The agent ended with an error ({error}). "
    "The operator of {worker} finds the details under query {query}.",
    process_died="The agent's process died ({how}).",
    process_killed="The agent's process was killed ({how}), perhaps because it had used up the memory.",
    exit_status="The agent ended with exit status {status}.",
    not_started="The agent could not be started. "
    "The operator of {worker} finds the details under query {query}.",
    no_answer="The agent ended without an answer.",
    wrong_answer="The agent returned {type} instead of a text.",
    empty_answer="The agent returned an empty answer.",
    empty_reason="The agent gave up without saying why.",
    stopping="the worker is being stopped",
    waits="Taken up again, waits for its turn",
    again="Attempt {attempt} by {worker}",
    again_after_crash="Attempt {attempt} by {worker}, after the worker had died in the middle",
    postponed="Put aside for {seconds:.10g} s: {reason}",
    too_often="The agent asked to try again later too often (times: {count}, allowed: {most}).",
    crashed="The worker died {count} times while this query was the only one it worked on.",
    crashed_once="The worker died while it worked on this query.",
    requeued="the worker died while it worked on it",
    put_back_crash="Put back into the queue: {reason}",
    not_written="the worker's disk is ill",
    given_up="The operator has ended this query: nobody was at work on it any more.",
    refused="WebBuddy did not accept the answer: {detail}",
    cut="\n\n[The answer was longer than WebBuddy accepts; the rest was cut off: {count} characters.]",
    left_out="[{count} more lines]",
)

RUSSIAN = Phrases(
    claimed="Запрос взял {worker} ({source})",
    claimed_push="по уведомлению",
    claimed_poll="по опросу",
    started="Выполняется, лимит времени {limit:.10g} с",
    done="Готово за {seconds:.1f} с",
    failed="Ошибка через {seconds:.1f} с: {reason}",
    put_back="Возвращён в очередь через {seconds:.1f} с: {reason}",
    timeout="Агент превысил лимит времени ({limit:.10g} с) и был остановлен.",
    left_behind="Агент превысил лимит времени ({limit:.10g} с), и остановить его не удалось.",
    error="Агент завершился с ошибкой ({error}). Подробности у оператора {worker}, запрос {query}.",
    process_died="Процесс агента аварийно завершился ({how}).",
    process_killed="Процесс агента был убит ({how}): возможно, не хватило памяти.",
    exit_status="Агент завершился с кодом {status}.",
    not_started="Агента не удалось запустить. Подробности у оператора {worker}, запрос {query}.",
    no_answer="Агент завершился, не дав ответа.",
    wrong_answer="Агент вернул {type} вместо текста.",
    empty_answer="Агент вернул пустой ответ.",
    empty_reason="Агент прекратил работу, не указав причину.",
    stopping="воркер останавливается",
    waits="Принят снова, ждёт своей очереди",
    again="Попытка {attempt}, {worker}",
    again_after_crash="Попытка {attempt}, {worker}: воркер аварийно завершился посреди работы",
    postponed="Отложен на {seconds:.10g} с: {reason}",
    too_often="Агент отложил запрос уже {count}-й раз; разрешено: {most}.",
    crashed="Воркер аварийно завершился, работая только над этим запросом, раз: {count}.",
    crashed_once="Воркер аварийно завершился, работая над этим запросом.",
    requeued="воркер аварийно завершился, работая над ним",
    put_back_crash="Возвращён в очередь: {reason}",
    not_written="диск воркера неисправен",
    given_up="Оператор завершил этот запрос: над ним больше никто не работал.",
    refused="WebBuddy не принял ответ: {detail}",
    cut="\n\n[Ответ длиннее, чем принимает WebBuddy; остаток отброшен, символов: {count}.]",
    left_out="[ещё строк: {count}]",
)


def phrases(language: str) -> Phrases:
    """Return the sentences of a language, ``"en"`` or ``"ru"``."""
    return {"en": ENGLISH, "ru": RUSSIAN}[language]
