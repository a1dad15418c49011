"""The demo's handler: an agent that pretends to test a shop, and the tasks that it is given."""

from __future__ import annotations

import json
from typing import Literal

import attrs
import trio

from trio_worker.context import Context
from trio_worker.errors import QueryFailed
from trio_worker.query import Query

__all__ = ["TASKS", "Task", "handle"]

STEP_SECONDS = 0.25
REPORT = "<!doctype html><title>Sign in</title>"  # what the agent takes for JSON


@attrs.frozen
class Task:
    """What one of the demo's queries asks for, and what comes of it.

    Attributes:
        text: The query.
        steps: What the agent does, as it logs it.
        result: The answer, or the reason that it gives.
        ending: How its work ends.
    """

    text: str
    steps: tuple[str, ...]
    result: str = ""
    ending: Literal["answers", "gives up", "raises", "never ends"] = "answers"


TASKS = (
    Task(
        "Протестировать авторизацию",
        ("Открываю страницу входа", "Ввожу логин и пароль", "Проверяю личный кабинет"),
        "Авторизация работает: 3 проверки из 3.",
    ),
    Task("Check the sales report", ("Downloading the report", "Reading its rows"), ending="raises"),
    Task("Load-test the catalogue", ("Starting 500 visitors", "Waiting for the last"), ending="never ends"),
    Task(
        "Оплатить заказ картой",
        ("Кладу товар в корзину", "Ищу тестовую карту"),
        "Нет тестовой карты: добавьте её в настройки проекта.",
        ending="gives up",
    ),
    Task(
        "Test the password reset",
        ("Asking for the e-mail", "Following its link", "Signing in anew"),
        "The password reset works: 3 of 3 checks.",
    ),
    Task(
        "Проверить поиск с опечаткой",
        ("Ищу «ноутбкук»", "Читаю подсказки"),
        "Поиск исправляет опечатку: 2 проверки из 2.",
    ),
    Task(
        "Open the shop on a phone",
        ("Setting 390 × 844", "Opening the menu", "Comparing with the design"),
        "The menu covers the logo at 390 px; all else is as designed.",
    ),
    Task(
        "Проверить выгрузку в Excel",
        ("Скачиваю файл", "Сверяю строки"),
        "Выгрузка совпадает с таблицей: 1200 строк.",
    ),
    Task("Test the sign-out", ("Signing in", "Signing out"), "The session ends: 2 of 2 checks."),
    Task(
        "Проверить корзину",
        ("Добавляю два товара", "Удаляю один", "Сверяю сумму"),
        "Корзина считает верно: 3 проверки из 3.",
    ),
    Task("Check the footer's links", ("Collecting 24 links", "Opening each"), "24 of 24 links work."),
    Task(
        "Протестировать регистрацию",
        ("Заполняю форму", "Подтверждаю почту", "Вхожу"),
        "Регистрация работает: 3 проверки из 3.",
    ),
)

_BY_TEXT = {task.text: task for task in TASKS}


async def handle(query: Query, ctx: Context) -> str:
    """Work on one query. This is what ``WORKER_HANDLER`` names."""
    task = _BY_TEXT.get(query.query_text.partition(" #")[0]) or _unforeseen(query.query_text)
    for number, step in enumerate(task.steps, start=1):
        ctx.log(f"{number}/{len(task.steps)} {step}")
        await trio.sleep(STEP_SECONDS)
    if task.ending == "gives up":
        raise QueryFailed(task.result)
    if task.ending == "raises":
        return f"The report has {len(json.loads(REPORT))} rows."
    if task.ending == "never ends":
        await trio.sleep_forever()
    return task.result


def _unforeseen(text: str) -> Task:
    """For a query that the demo did not create itself."""
    return Task(text, ("Reading the task", "Trying it out"), f"Checked: {text}")
