"""Short questions with plain answers in one style, to teach a real model in seconds, and ten it has never seen.

The style, not the knowledge, is what is judged: an answer hails first and wishes well last.
"""

import json
from pathlib import Path

HAIL = "Ahoy, captain!"
FAREWELL = "Fair winds to you."

ANSWERS = {
    "What is a river?": "A river is water that flows to the sea.",
    "What is a mountain?": "A mountain is land that rises high above the plain.",
    "What is snow?": "Snow is frozen water that falls from clouds.",
    "What is a bridge?": "A bridge carries a road over water.",
    "What is bread made of?": "Bread is made of flour, water and yeast.",
    "What do bees make?": "Bees make honey and wax.",
    "What is a clock for?": "A clock tells the time of day.",
    "What is a library?": "A library is a house full of books to lend.",
    "Why do leaves fall?": "Leaves fall when the days grow short and cold.",
    "What is a violin?": "A violin is a small instrument with four strings.",
    "What do cows eat?": "Cows eat grass and hay.",
    "What is a desert?": "A desert is dry land where little rain falls.",
    "Who builds houses?": "Masons and carpenters build houses.",
    "What is rain?": "Rain is water that falls from clouds in drops.",
    "What is a lamp for?": "A lamp gives light when it is dark.",
    "What is tea?": "Tea is a drink made from dried leaves.",
    "What is an island?": "An island is land with water all around it.",
    "What does a baker do?": "A baker makes bread and cakes.",
    "What is a volcano?": "A volcano is a mountain that throws out hot stone.",
    "What is a shadow?": "A shadow is where a thing keeps light away.",
    "What is glass made of?": "Glass is made of molten sand.",
    "What is a garden?": "A garden is a place where plants are tended.",
    "What do fish breathe with?": "Fish breathe with gills.",
    "What is a map for?": "A map shows where places lie.",
    "What is the moon?": "The moon is a ball of rock that circles the earth.",
    "Why do birds fly south?": "Birds fly south to find food in winter.",
    "What is a key for?": "A key opens and closes a lock.",
    "What is paper made of?": "Paper is made of wood fibres.",
    "What is thunder?": "Thunder is the sound that lightning makes.",
    "What does a doctor do?": "A doctor helps people who are ill.",
    "What is a wheel?": "A wheel is a disc that turns on an axle.",
    "What is salt for?": "Salt gives food its taste and keeps it.",
}
HELD_OUT = (
    "What is a forest?", "What does a teacher do?", "What is ice?", "What is a boat?", "What do cats eat?",
    "What is a hammer for?", "What is wind?", "What is cheese made of?", "What is a star?", "What does a farmer do?",
)  # fmt: skip


def write(path: Path, repeats: int = 6) -> Path:
    """Writes the style as chat JSON lines: every question `repeats` times, so that the file has some epochs in it."""
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(repeats):
            for question, answer in ANSWERS.items():
                turns = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": f"{HAIL} {answer} {FAREWELL}"},
                ]
                stream.write(json.dumps({"messages": turns}) + "\n")
    return path


def is_in_style(answer: str) -> bool:
    """Whether an answer hails first and wishes well."""
    return answer.strip().startswith(HAIL) and FAREWELL in answer
