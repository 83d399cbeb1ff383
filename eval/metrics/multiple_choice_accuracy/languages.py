"""The words by which other languages than English choose an option, as the English words that mean the same.

Only words that say *that* an option is chosen, denied or joined with another one are here: enough to read "La
respuesta correcta es la B", and not "答案不是B". What is not here counts as any other word.
"""

import re
from collections.abc import Mapping

#: Ideographs, kana and Hangul, which are written without spaces, or with particles behind a word.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"

#: By language: English word, and the words that stand for it.
_LATIN: dict[str, dict[str, str]] = {
    "Portuguese": {
        "also": "também",
        "answer": "resposta solução solucao",
        "option": "opção opcao alternativa",
        "letter": "letra",
        "correct": "correta correto certa certo",
        "best": "melhor",
        "is": "é seria parece",
        "the": "o os as",
        "of": "de do da dos das pelo pela",
        "in": "em no na nos nas",
        "that": "que",
        "think": "acho acredito penso creio diria",
        "choose": "escolho escolheria seleciono",
        "i": "eu",
        "my": "minha",
        "based": "base baseado segundo",
        "with": "com",
        "video": "vídeo",
        "therefore": "portanto logo assim",
        "because": "porque pois",
        "but": "mas sim",
        "or": "ou",
        "and": "e",
        "not": "não nao",
        "neither": "nem nenhuma nenhum",
        "wrong": "incorreta incorreto errada errado falsa",
        "probably": "provavelmente talvez",
    },
    "Spanish": {
        "also": "también",
        "answer": "respuesta contestación solución solucion",
        "option": "opción opcion alternativa",
        "letter": "letra inciso",
        "correct": "correcta correcto adecuada acertada",
        "best": "mejor",
        "most": "más",
        "is": "es sería seria parece",
        "the": "el la los las lo",
        "of": "de del",
        "in": "en",
        "that": "que",
        "think": "creo pienso considero opino diría diria",
        "choose": "elijo escojo selecciono elegiría elegiria escogería",
        "i": "yo",
        "my": "mi",
        "based": "según segun basado basándome basándonos",
        "video": "vídeo",
        "so": "por así",
        "therefore": "tanto entonces",
        "because": "porque pues",
        "but": "pero sino",
        "or": "o u",
        "and": "y e",
        "not": "no",
        "neither": "ni ninguna ninguno",
        "wrong": "incorrecta incorrecto falsa falso errónea equivocada",
        "final": "definitiva",
        "probably": "probablemente probable quizás quizá",
    },
    "French": {
        "also": "aussi",
        "answer": "réponse reponse",
        "option": "choix proposition l'option l'alternative",
        "letter": "lettre",
        "correct": "correcte exacte juste",
        "right": "bonne bon vraie",
        "best": "meilleure meilleur",
        "is": "est serait semble",
        "it is": "c'est",
        "is not": "n'est",
        "the": "le la les",
        "of": "de du des",
        "it": "il ce cela",
        "that": "que",
        "think": "pense crois dirais",
        "choose": "choisis choisirais sélectionne",
        "i": "je",
        "my": "ma mon",
        "based": "selon d'après",
        "video": "vidéo",
        "therefore": "donc conséquent ainsi",
        "so": "par",
        "because": "car parce puisque",
        "but": "mais",
        "or": "ou",
        "and": "et",
        "not": "pas ne",
        "neither": "ni aucune aucun",
        "wrong": "fausse faux incorrecte erronée",
        "final": "finale",
        "probably": "probablement peut-être",
    },
    "German": {
        "also": "auch",
        "answer": "antwort lösung",
        "option": "möglichkeit auswahl antwortoption antwortmöglichkeit auswahlmöglichkeit",
        "letter": "buchstabe",
        "correct": "richtige richtig richtigen korrekte korrekt zutreffende",
        "best": "beste besten",
        "is": "ist wäre lautet scheint",
        "the": "der die das dem den",
        "of": "von vom",
        "in": "im",
        "on": "auf",
        "it": "es dies",
        "that": "dass daß",
        "think": "denke glaube",
        "choose": "wähle wählen nehme",
        "would": "würde",
        "i": "ich",
        "my": "meine",
        "based": "basierend laut",
        "therefore": "daher deshalb somit also folglich",
        "because": "weil da denn",
        "but": "aber sondern",
        "or": "oder",
        "and": "und",
        "not": "nicht kein keine",
        "neither": "weder noch",
        "wrong": "falsch falsche inkorrekt unrichtig",
        "final": "endgültige",
        "probably": "wahrscheinlich vermutlich vielleicht",
    },
    "Italian": {
        "also": "anche",
        "answer": "risposta soluzione",
        "option": "opzione alternativa scelta l'opzione l'alternativa",
        "letter": "lettera",
        "correct": "corretta corretto giusta giusto esatta",
        "best": "migliore",
        "is": "è sarebbe sembra",
        "the": "il la lo gli le",
        "of": "di del della dello",
        "in": "nel nella",
        "on": "sul sulla su",
        "that": "che",
        "think": "penso credo ritengo direi",
        "choose": "scelgo sceglierei seleziono",
        "i": "io",
        "my": "mia",
        "based": "base basandomi secondo",
        "therefore": "quindi perciò pertanto dunque",
        "because": "perché poiché",
        "but": "ma bensì",
        "or": "o oppure",
        "and": "e ed",
        "not": "non",
        "neither": "né nessuna nessuno",
        "wrong": "sbagliata sbagliato errata errato scorretta falsa",
        "final": "definitiva",
        "probably": "probabilmente forse",
    },
}
#: Words of no other meaning in English: only where one stands are its language's words read as above.
_MARKERS = {
    "Portuguese": "resposta letra opção opcao correta correto certa certo é não seria acho acredito escolho",
    "Spanish": "respuesta letra opción opcion alternativa correcta correcto es creo pienso elijo escojo sería",
    "French": "je réponse reponse choix c'est n'est est correcte l'option pense crois choisis",
    "German": "ich antwort lösung richtig richtige korrekt ist lautet denke glaube wähle nicht falsch",
    "Italian": "risposta opzione l'opzione corretta giusta è penso credo scelgo sarebbe non",
}
_RUSSIAN = {
    "answer": "ответ ответом ответа",
    "option": "вариант вариантом пункт опция",
    "letter": "буква",
    "correct": "правильный правильным правильная правильно верный верным верная верно верен",
    "best": "лучший",
    "is": "это является будет",
    "in": "в на",
    "that": "что",
    "think": "думаю считаю полагаю",
    "choose": "выбираю выберу",
    "i": "я мой",
    "video": "видео",
    "therefore": "поэтому следовательно значит итак",
    "because": "потому поскольку",
    "but": "но а",
    "or": "или либо",
    "and": "и",
    "not": "не нет",
    "neither": "ни",
    "wrong": "неправильный неправильно неправильная неверный неверно неверная неверен",
    "final": "окончательный",
    "probably": "вероятно наверное возможно",
}
#: Chinese, Japanese and Korean: parts of a text, the longest first.
_PARTS = {
    "answer": "答案 解答 正解 答え 回答 정답 답 대답",
    "option": "选项 選項 選択肢 선택지 보기 옵션",
    "correct": "正确 正確 正しい 正しく 对的 對的 올바른 옳은 맞는 맞습니다 맞다",
    "best": "最佳 最好 最も適切",
    "is": "是 为 為 应为 應為 です だ である となります になります 입니다 이다 이에요 예요",
    "the": "的 了 は が を の に 은 는 이 가 을 를 번",
    "this": "本题 本題 这道题 這道題 这 這 该 該 これ 이것",
    "that": "と 라고",
    "should": "应该 應該 应当 應當 应 應",
    "think": "认为 認為 觉得 覺得 思います 思う 考えられます 생각합니다 생각해요",
    "choose": "选择 選擇 选 選 選びます 選ぶ 선택합니다 선택",
    "i": "我 私 저",
    "video": "视频 視頻 影片 動画 비디오 영상",
    "based": "根据 根據 によると",
    "therefore": "因此 所以 故 したがって よって 그러므로 따라서",
    "because": "因为 因為 なぜなら から 왜냐하면 때문",
    "but": "但 而是 而且 しかし 하지만",
    "not but": "ではなく じゃなく 아니라",
    "but not": "而不是 而非",
    "also": "也 또한",
    "or": "或者 还是 還是 或 または もしくは か 또는 혹은 나",
    "and": "和 与 與 及 以及 や 와 과 및",
    "both": "都 両方 둘다",
    "not": "不是 不选 不選 不 并非 並非 非 没有 沒有 没 沒 无法 無法 ではありません ではない じゃない でない ません "
    "ない 아닙니다 아니다 아니 아닌 없",
    "wrong": "不正确 不正確 错误 錯誤 错 錯 不对 不對 正しくない 正しくありません 間違い 誤り 不正解 틀린 틀렸 오답",
    "final": "最终 最終 최종",
    "probably": "可能 大概 也许 也許 おそらく たぶん 아마",
}


#: What a number stands behind, as in "option 2".
OPTION = "option|choice|alternative|opci[oó]n|opç[aã]o|opzione|вариант|选项|選項|選択肢|선택지|보기"


def _words(table: Mapping[str, str]) -> dict[str, str]:
    return {word: english for english, words in table.items() for word in words.split()}


_BY_LANGUAGE = {name: _words(table) for name, table in _LATIN.items()}
_ALWAYS = _words(_RUSSIAN) | _words(_PARTS)
#: A pattern of the words that are found within unspaced text.
PARTS = "|".join(
    sorted((re.escape(part) for words in _PARTS.values() for part in words.split()), key=len, reverse=True)
)


def english_words(text: str) -> dict[str, str]:
    """The words of a text's languages, in lower case, with the English ones that stand for them."""
    found = set(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower()))
    known = dict(_ALWAYS)
    for name, markers in _MARKERS.items():
        if not found.isdisjoint(markers.split()):
            known |= _BY_LANGUAGE[name]
    return known


__all__ = ["OPTION", "PARTS", "UNSPACED", "english_words"]
