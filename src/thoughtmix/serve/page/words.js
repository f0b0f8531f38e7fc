// Every word of the page, in English and in French, and which of the two is spoken.

const WORDS = {
  en: {
    skip: "Skip to the thoughts", views: "Views", tabThink: "Thoughts", tabCompare: "Compare", tabDiffuse: "Denoise",
    prompt: "Prompt", promptHint: "Ask for something that has many good answers …", thinker: "Thinker", ownThinker: "the model's own",
    autoNote: "What the loaded model is made for: {name}. {summary}", creativity: "Creativity", howMany: "How many", think: "Think",
    cancel: "Cancel", more: "More settings", temperature: "Temperature", ofThinker: "thinker's own", maxTokens: "Most tokens",
    seed: "Seed", ownOptions: "This thinker's own options", progress: "Progress",
    heatInstead: "The temperature below is used instead of creativity.",
    empty: "One prompt in, many genuinely different answers out. Write one, or begin with:",
    example1: "Name an unusual use for a brick.", example2: "Give me an unusual idea for a birthday party.",
    example3: "Begin a story about a lighthouse.", thoughts: "Thoughts", overview: "Overview",
    pickLabel: "Most different", pick: "Pick", showAll: "Show all", exportJson: "Export JSON", exportHtml: "Export HTML",
    tree: "Branches", strength: "Noise", children: "Branches each",
    map: "Map", mapHint: "Near thoughts sit near. + and − zoom; drag what is magnified.", heat: "Who differs from whom", alike: "alike", different: "different",
    compareTitle: "Creativity beside temperature",
    compareIntro: "The same prompt twice: a thinker whose creativity is not its temperature, and plain sampling that is heated. Nonsense is different, too: so completeness and relevance stand beside difference.",
    live: "Run again when a slider moves", compareGo: "Compare", tried: "Tried so far",
    triedHint: "Up is more different, right more relevant; the fainter a mark, the fewer of its thoughts are complete. Numbers of so few thoughts are rough.",
    diffuseTitle: "Text out of noise",
    diffuseIntro: "The diffusion model writes at all places of a text, in an order drawn by chance. Branches compete: now and then the half that it finds better is copied, and the others are given up and fade.",
    diffuseHint: "The beginning of the text (may be empty)", branches: "Branches", steps: "Steps", length: "Length",
    diffuseGo: "Denoise", step: "Step", unsure: "unsure", sure: "sure", play: "Play", pause: "Pause",
    noDiffusion: "This server has no diffusion model. Type: thoughtmix serve --help",
    shortcuts: "Keyboard shortcuts", keysOn: "Single-key shortcuts on", close: "Close",
    tokenTitle: "This server asks for a token", tokenText: "It was started with one. It is kept for this tab only.",
    token: "Token", tokenUse: "Use it", again: "Try again", dismiss: "Dismiss", language: "Français",
    toDark: "Dark", toLight: "Light", themeLabel: "Theme: switch to {theme}",
    thought: "Thought {label}", waiting: "waiting …", writing: "writing", stop: "complete", length_: "cut at the token limit",
    cancelled: "stopped", noiseOne: "Noise this one", noNoise: "This server has no noise thinker.", open: "Open", compareWith: "Compare with its parent",
    copy: "Copy", copied: "Copied.", picked: "picked", openTree: "{n, branch, branches}", like: "log-likelihood a token", likeShort: "{x} nats a token", closest: "Closest: {a} and {b} ({x}).", farthest: "Farthest: {c} and {d} ({y}).", jumps: "Jump to", errNoToken: "This server asks for its token. Press Try again to enter it.", ownSeed: "seed {seed}",
    specification: "What this answer was asked to be like", agreement: "{x} agreed", agreementNote: "How many of the answers drawn say the same", relevance: "relevance {x}", relevanceNote: "Likeness of thought and prompt (cosine of their embeddings): 1 the same, 0 unrelated", pair: "{a} and {b}: {x} apart", pairTitle: "{a} beside {b}", pairNote: "Marked: words that the other does not have.",
    nodeEmpty: "Choose a thought to read it here.", from: "from {label}",
    done: "{done} of {total} tokens", saidStart: "Thinking: {n, thought, thoughts}.", saidHalf: "Half done.", saidEnd: "{n, thought is, thoughts are} ready.",
    saidCancel: "Stopped. {n, thought is, thoughts are} kept.", saidPicked: "Picked: {labels}.", saidBranch: "Branching from {label}.", saidExport: "Saved {name}.",
    summary: "{n, thought, thoughts}", vendi: "{x} different, effectively", meanDistance: "{x} apart on average", speed: "{x} tokens a second",
    sideNote: "thinker: {name}", sideAbsent: "The model that is served cannot do this: it has no thought branches.",
    apart: "apart on average", quality: "nats a token",
    notYet: "not run yet", running: "running …", setting: "Setting", colQuality: "Nats a token",
    stepOf: "Step {a} of {b}", aliveOf: "{n} alive", branch: "Branch {n}", fromBranch: "copy of {n}", given: "given up", heir: "given up; in its place comes {n}",
    saidFilm: "Denoised: {n, branch is, branches are} left.",
    errGone: "The server does not answer. Start it with “thoughtmix serve”, then try again.",
    errBusy: "The server is full. Try again in {s, second, seconds}.", errBusyNow: "The server is full. Try again.",
    errCut: "The connection broke; {n, finished thought is, finished thoughts are} kept. Try again for the rest.",
    errToken: "The token was not accepted. Look at how the server was started, then enter it again.",
    errServer: "The server had an error ({status}). Try again; if it stays, look at the server's own output.",
    errPrompt: "There is no prompt. Write one, then press Think.", errReply: "The server answered something else than expected. Is this page from the same version? Reload it.",
    keyThink: "think", keyCancel: "cancel what runs", keyPrompt: "to the prompt", keyHelp: "this list", keyNext: "next, previous thought",
    keyPick: "pick the most different", keyNoise: "noise the focused thought", keyTabs: "thoughts, compare, denoise",
    keyArrows: "move in tree, map and heat-map", keyTree: "open or close a branch", mapDot: "{label}: {text}", empty_: "(empty)",
    history: "History", historyText: "What you thought here, newest first. It is kept in this browser alone.", historyEmpty: "Nothing yet.", historyOn: "Keep a history in this browser",
    historyClear: "Clear all", historySize: "{n, entry, entries}, {kb} KB", removeEntry: "Remove “{prompt}”", dropHere: "Drop a thought set (JSON) to open it",
    thinkAgain: "Think again", import: "Open a file", importHint: "Or open a thought set that you saved: choose it, or drop it anywhere here.", enterHint: "Enter thinks, Shift+Enter breaks the line.",
    floor: "Quality floor", floorNote: "Which share of the thoughts is not likely enough to be picked: 0 picks by difference alone, 1 the likeliest",
    sort: "Sort", show: "Show", filter: "Containing …", sort_number: "as they were made", sort_likely: "likeliest first", sort_relevant: "most relevant first",
    sort_far: "most different first", sort_complete: "complete first", sort_long: "longest first", show_all: "all", show_complete: "complete", show_open: "cut short", show_picked: "picked",
    group: "Group {n}", groups: "Groups", shownOf: "{n} of {all}", goOn: "Continue", wholeText: "Whole text", lessText: "Less", sentence: "ended with its sentence",
    left_blank: "left out: blank", left_copy: "left out: says what {of} says", left_loop: "left out: repeats itself", left_stock: "left out: a stock phrase", left_quality: "left out: below the quality floor", left_near: "left out: nearest to {of}",
    selected: "{k} of {of} picked.", selectedFar: "{x} apart on average; as many at random: {y}.", selectedLeft: "Left out: {reasons}.",
    why_blank: "{n, blank one, blank ones}", why_copy: "{n, copy, copies}", why_loop: "{n, loop, loops}", why_stock: "{n, stock phrase, stock phrases}", why_quality: "{n, less likely than the floor asks, less likely than the floor asks}", why_near: "{n, near a picked one, near a picked one}",
    saidGoOn: "Going on with {label}.", zoomIn: "Zoom in", zoomOut: "Zoom out", zoomFit: "All", heatOrder: "Here near thoughts are neighbours, whatever their numbers.",
    completeOf: "{n} complete", figure_different: "different", figure_complete: "complete", figure_relevance: "relevance", differentNote: "How many wholly different ones the thoughts are worth (Vendi score)",
    completeNote: "Thoughts that the model ended, or that end as a sentence does", ofAll: "of {n}", ahead: "{side} is ahead in {list}.", aheadIn: "{what} ({own} to {other})", aheadNone: "Neither is ahead.", writesWith: "Model: {model}",
    boundBoth: "Between {low} and {high}.", boundLow: "{low} or more.", boundAbove: "More than {low}.", boundHigh: "At most {high}.",
    errLarge: "The file is too large for the page. Type: thoughtmix show FILE", errNoJson: "The file is no JSON. Save one here with Export JSON, or type: thoughtmix think \"…\" --json > thoughts.json",
    errNoSet: "The file is no thought set. Save one here with Export JSON, or type: thoughtmix think \"…\" --json > thoughts.json", errVersion: "The thought set is of a newer version. Type: pip install --upgrade thoughtmix",
    keyLine: "break the line", keyAgain: "think again, with new seeds", keyZoom: "in the map: nearer, farther, all of it",
  },
  fr: {
    skip: "Aller aux pensées", views: "Vues", tabThink: "Pensées", tabCompare: "Comparer", tabDiffuse: "Débruiter",
    prompt: "Consigne", promptHint: "Demandez quelque chose qui a beaucoup de bonnes réponses…", thinker: "Penseur", ownThinker: "celui du modèle",
    autoNote: "Ce pour quoi le modèle chargé est fait : {name}. {summary}", creativity: "Créativité", howMany: "Combien", think: "Penser",
    cancel: "Annuler", more: "Autres réglages", temperature: "Température", ofThinker: "du penseur", maxTokens: "Jetons au plus",
    seed: "Graine", ownOptions: "Options propres à ce penseur", progress: "Avancement",
    heatInstead: "La température ci-dessous remplace la créativité.",
    empty: "Une consigne, beaucoup de réponses vraiment différentes. Écrivez la vôtre, ou commencez par :",
    example1: "Trouve un usage inattendu d’une brique.", example2: "Donne-moi une idée originale d’anniversaire.",
    example3: "Commence une histoire de phare.", thoughts: "Pensées", overview: "Vue d’ensemble",
    pickLabel: "Les plus différentes", pick: "Choisir", showAll: "Tout montrer", exportJson: "Exporter en JSON", exportHtml: "Exporter en HTML",
    tree: "Branches", strength: "Bruit", children: "Branches chacune",
    map: "Carte", mapHint: "Les pensées proches sont voisines. + et − agrandissent ; on déplace la carte agrandie.", heat: "Qui diffère de qui", alike: "semblables", different: "différentes",
    compareTitle: "La créativité à côté de la température",
    compareIntro: "La même consigne deux fois : un penseur dont la créativité n’est pas la température, et un tirage simple que l’on chauffe. Du charabia est différent lui aussi : l’achèvement et la pertinence sont donc donnés à côté de la différence.",
    live: "Relancer quand un curseur bouge", compareGo: "Comparer", tried: "Essais jusqu’ici",
    triedHint: "Plus haut : plus différent ; plus à droite : plus pertinent ; plus le point est pâle, moins il y a de pensées complètes. Avec si peu de pensées, les nombres sont grossiers.",
    diffuseTitle: "Du texte tiré du bruit",
    diffuseIntro: "Le modèle de diffusion écrit à toutes les places du texte, dans un ordre tiré au hasard. Les branches rivalisent : de temps en temps, la moitié qu’il juge la meilleure est copiée ; les autres sont abandonnées et pâlissent.",
    diffuseHint: "Le début du texte (peut être vide)", branches: "Branches", steps: "Étapes", length: "Longueur",
    diffuseGo: "Débruiter", step: "Étape", unsure: "hésitant", sure: "sûr", play: "Lire", pause: "Pause",
    noDiffusion: "Ce serveur n’a pas de modèle de diffusion. Tapez : thoughtmix serve --help",
    shortcuts: "Raccourcis clavier", keysOn: "Raccourcis à une touche actifs", close: "Fermer",
    tokenTitle: "Ce serveur demande un jeton d’accès", tokenText: "Il a été démarré avec un jeton. Il n’est gardé que pour cet onglet.",
    token: "Jeton d’accès", tokenUse: "L’utiliser", again: "Réessayer", dismiss: "Masquer", language: "English",
    toDark: "Sombre", toLight: "Clair", themeLabel: "Thème : passer à {theme}",
    thought: "Pensée {label}", waiting: "en attente…", writing: "en cours", stop: "complète", length_: "coupée à la limite de jetons",
    cancelled: "arrêtée", noiseOne: "Bruiter celle-ci", noNoise: "Ce serveur n’a pas de penseur « noise ».", open: "Ouvrir", compareWith: "Comparer à son parent",
    copy: "Copier", copied: "Copié.", picked: "choisie", openTree: "{n, branche, branches}", like: "log-vraisemblance par jeton", likeShort: "{x} nats par jeton", closest: "Les plus proches : {a} et {b} ({x}).", farthest: "Les plus éloignées : {c} et {d} ({y}).", jumps: "Aller à", errNoToken: "Ce serveur demande son jeton d’accès. Appuyez sur Réessayer pour le saisir.", ownSeed: "graine {seed}",
    specification: "Ce que cette réponse devait être", agreement: "{x} d’accord", agreementNote: "Combien des réponses tirées disent la même chose", relevance: "pertinence {x}", relevanceNote: "Ressemblance de la pensée et de la consigne (cosinus de leurs plongements) : 1 identiques, 0 sans rapport", pair: "{a} et {b} : {x} d’écart", pairTitle: "{a} à côté de {b}", pairNote: "En évidence : les mots que l’autre n’a pas.",
    nodeEmpty: "Choisissez une pensée pour la lire ici.", from: "issue de {label}",
    done: "{done} jetons sur {total}", saidStart: "Réflexion : {n, pensée, pensées}.", saidHalf: "À moitié.", saidEnd: "{n, pensée est prête, pensées sont prêtes}.",
    saidCancel: "Arrêté. {n, pensée est gardée, pensées sont gardées}.", saidPicked: "Choisies : {labels}.", saidBranch: "Branches à partir de {label}.", saidExport: "{name} enregistré.",
    summary: "{n, pensée, pensées}", vendi: "l’équivalent de {x} différentes", meanDistance: "{x} d’écart moyen", speed: "{x} jetons par seconde",
    sideNote: "penseur : {name}", sideAbsent: "Le modèle servi ne sait pas faire cela : il n’a pas de branches de pensée.",
    apart: "d’écart moyen", quality: "nats par jeton",
    notYet: "pas encore lancé", running: "en cours…", setting: "Réglage", colQuality: "Nats par jeton",
    stepOf: "Étape {a} sur {b}", aliveOf: "{n} en lice", branch: "Branche {n}", fromBranch: "copie de {n}", given: "abandonnée", heir: "abandonnée ; {n} prend sa place",
    saidFilm: "Débruité : il reste {n, branche, branches}.",
    errGone: "Le serveur ne répond pas. Démarrez-le avec « thoughtmix serve », puis réessayez.",
    errBusy: "Le serveur est plein. Réessayez dans {s, seconde, secondes}.", errBusyNow: "Le serveur est plein. Réessayez.",
    errCut: "La connexion s’est rompue ; {n, pensée finie est gardée, pensées finies sont gardées}. Réessayez pour le reste.",
    errToken: "Le jeton d’accès a été refusé. Regardez comment le serveur a été démarré, puis saisissez-le de nouveau.",
    errServer: "Le serveur a rencontré une erreur ({status}). Réessayez ; si elle reste, lisez ce qu’il affiche.",
    errPrompt: "Il n’y a pas de consigne. Écrivez-en une, puis appuyez sur Penser.", errReply: "Le serveur a répondu autre chose que prévu. Cette page est-elle de la même version ? Rechargez-la.",
    keyThink: "penser", keyCancel: "annuler ce qui est en cours", keyPrompt: "vers la consigne", keyHelp: "cette liste", keyNext: "pensée suivante, précédente",
    keyPick: "choisir les plus différentes", keyNoise: "bruiter la pensée sélectionnée", keyTabs: "pensées, comparer, débruiter",
    keyArrows: "se déplacer dans l’arbre, la carte et les écarts", keyTree: "ouvrir ou fermer une branche", mapDot: "{label} : {text}", empty_: "(vide)",
    history: "Historique", historyText: "Ce que vous avez fait penser ici, le plus récent d’abord. Rien ne sort de ce navigateur.", historyEmpty: "Rien encore.", historyOn: "Garder un historique dans ce navigateur",
    historyClear: "Tout effacer", historySize: "{n, entrée, entrées}, {kb} Ko", removeEntry: "Retirer « {prompt} »", dropHere: "Déposez un ensemble de pensées (JSON) pour l’ouvrir",
    thinkAgain: "Repenser", import: "Ouvrir un fichier", importHint: "Ou ouvrez un ensemble de pensées enregistré : choisissez-le, ou déposez-le n’importe où ici.", enterHint: "Entrée fait penser, Maj+Entrée va à la ligne.",
    floor: "Seuil de qualité", floorNote: "Quelle part des pensées n’est pas assez probable pour être choisie : 0 ne regarde que la différence, 1 prend les plus probables",
    sort: "Trier", show: "Montrer", filter: "Contenant…", sort_number: "dans l’ordre", sort_likely: "les plus probables d’abord", sort_relevant: "les plus pertinentes d’abord",
    sort_far: "les plus différentes d’abord", sort_complete: "les complètes d’abord", sort_long: "les plus longues d’abord", show_all: "toutes", show_complete: "les complètes", show_open: "les inachevées", show_picked: "les choisies",
    group: "Groupe {n}", groups: "Groupes", shownOf: "{n} sur {all}", goOn: "Continuer", wholeText: "Texte entier", lessText: "Réduire", sentence: "finie avec sa phrase",
    left_blank: "écartée : vide", left_copy: "écartée : dit la même chose que {of}", left_loop: "écartée : se répète", left_stock: "écartée : formule toute faite", left_quality: "écartée : sous le seuil de qualité", left_near: "écartée : la plus proche est {of}",
    selected: "{k} sur {of} choisies.", selectedFar: "{x} d’écart moyen ; autant au hasard : {y}.", selectedLeft: "Écartées : {reasons}.",
    why_blank: "{n, vide, vides}", why_copy: "{n, copie, copies}", why_loop: "{n, qui se répète, qui se répètent}", why_stock: "{n, formule toute faite, formules toutes faites}", why_quality: "{n, moins probable que le seuil, moins probables que le seuil}", why_near: "{n, proche d’une choisie, proches d’une choisie}",
    saidGoOn: "Suite de {label}.", zoomIn: "Agrandir", zoomOut: "Réduire la carte", zoomFit: "Tout", heatOrder: "Ici les pensées proches sont voisines, quels que soient leurs numéros.",
    completeOf: "{n} complètes", figure_different: "différentes", figure_complete: "complètes", figure_relevance: "pertinence", differentNote: "Combien de pensées tout à fait différentes elles valent (score de Vendi)",
    completeNote: "Pensées que le modèle a achevées, ou qui finissent comme une phrase", ofAll: "sur {n}", ahead: "{side} l’emporte : {list}.", aheadIn: "{what} ({own} contre {other})", aheadNone: "Aucun des deux ne l’emporte.", writesWith: "Modèle : {model}",
    boundBoth: "Entre {low} et {high}.", boundLow: "{low} ou plus.", boundAbove: "Plus de {low}.", boundHigh: "{high} au plus.",
    errLarge: "Le fichier est trop gros pour la page. Tapez : thoughtmix show FICHIER", errNoJson: "Le fichier n’est pas du JSON. Enregistrez-en un ici avec Exporter en JSON, ou tapez : thoughtmix think \"…\" --json > pensees.json",
    errNoSet: "Le fichier n’est pas un ensemble de pensées. Enregistrez-en un ici avec Exporter en JSON, ou tapez : thoughtmix think \"…\" --json > pensees.json", errVersion: "L’ensemble de pensées est d’une version plus récente. Tapez : pip install --upgrade thoughtmix",
    keyLine: "aller à la ligne", keyAgain: "repenser, avec d’autres graines", keyZoom: "dans la carte : plus près, plus loin, tout",
  },
};

export const LANGUAGES = Object.keys(WORDS);
let language = "en";

/** French sets off its double signs, and a number does not leave its unit, by spaces at which no line breaks. */
const spaced = (text) => text.replace(/ (?=[:»])|(?<=«) |(?<=\}) (?=\p{L})/gu, "\u00a0").replace(/ (?=[;!?])/gu, "\u202f");

/** Fill in: {name} is replaced; {n, one, many} becomes "3 many" by the language's plural. */
export function t(key, values = {}) {
  const found = WORDS[language][key] ?? WORDS.en[key] ?? key;
  const text = language === "fr" ? spaced(found) : found;
  return text.replace(/\{(\w+)(?:, ([^,}]+), ([^}]+))?\}/g, (whole, name, one, many) => {
    const value = values[name];
    if (value === undefined) return whole;
    if (one === undefined) return String(value);
    const singular = new Intl.PluralRules(language).select(Number(value)) === "one";
    return `${number(Number(value), 0)}${language === "fr" ? "\u00a0" : " "}${singular ? one : many}`;
  });
}

/** A number as the language writes it. */
export function number(value, digits = 2) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value).replace("-", "\u2212");
}

export const spoken = () => language;
export { spaced };

/** Say everything in this language, and tell whoever listens ("language" on document). */
export function speak(wanted, keep = true) {
  language = LANGUAGES.includes(wanted) ? wanted : "en";
  document.documentElement.lang = language;
  if (keep) {
    try {
      localStorage.setItem("thoughtmix.language", language);
    } catch {
      // storage may be forbidden: the choice then lasts as long as the page
    }
  }
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = t(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
  for (const element of document.querySelectorAll("[data-title]")) element.title = t(element.dataset.title);
  document.getElementById("said").textContent = ""; // said in the other language
  document.dispatchEvent(new Event("language"));
}

/** The language chosen before, else the first of the browser's that we have. */
export function preferred() {
  let kept = null;
  try {
    kept = localStorage.getItem("thoughtmix.language");
  } catch {
    kept = null;
  }
  const wished = [kept, ...(navigator.languages ?? [navigator.language])].map((tag) => (tag ?? "").slice(0, 2));
  return wished.find((tag) => LANGUAGES.includes(tag)) ?? "en";
}

export const allWords = WORDS; // for the test that both languages say everything
