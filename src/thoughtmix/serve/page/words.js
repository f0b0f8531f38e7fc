// Every word of the page, in English and in French, and which of the two is spoken.

const WORDS = {
  en: {
    skip: "Skip to the thoughts", views: "Views", tabThink: "Thoughts", tabCompare: "Compare", tabDiffuse: "Denoise",
    prompt: "Prompt", promptHint: "Ask for something that has many good answers …", thinker: "Thinker", auto: "the model's own",
    autoNote: "What the loaded model is made for.", creativity: "Creativity", howMany: "How many", think: "Think",
    cancel: "Cancel", more: "More settings", temperature: "Temperature", ofThinker: "thinker's own", maxTokens: "Most tokens",
    seed: "Seed", ownOptions: "This thinker's own options", progress: "Progress",
    option_idea: "Text to rewrite", option_strength: "Strength", option_language: "Language", option_families: "Families", option_directions: "Directions",
    option_form: "Form of the list", option_demonstrations: "Demonstrations", option_chains: "Chains", option_rounds: "Rounds", option_distinct: "No repeats", option_sees: "What it sees", option_source: "Source", option_factor: "Times as many", option_examples: "Examples", option_group: "Which agree", option_near: "Near", option_draws: "Draws", option_read: "Who reads the prompt", option_steps: "Steps", option_branches: "Branches", option_drafts: "Drafts", option_keep: "Drafts kept", option_stages: "Stages", option_beta: "Push", option_layer: "Layer", option_width: "Width", option_ridge: "Slowness",
    heatInstead: "The temperature below is used instead of creativity.",
    empty: "One prompt in, many genuinely different answers out. Write one, or begin with:",
    example1: "Name an unusual use for a brick.", example2: "Give me an unusual idea for a birthday party.",
    example3: "Begin a story about a lighthouse.", thoughts: "Thoughts", overview: "Overview",
    pickLabel: "Most different", pick: "Pick", showAll: "Show all", exportJson: "Export JSON", exportHtml: "Export HTML",
    tree: "Branches", strength: "Noise", value_precise: "precise", value_vague: "vague", value_chaotic: "chaotic", children: "Branches each",
    map: "Map", mapHint: "Near thoughts sit near.", heat: "Who differs from whom", alike: "alike", different: "different",
    compareTitle: "Creativity beside temperature",
    compareIntro: "The same prompt twice: thoughts that take different routes through the model, and plain sampling that is heated.",
    live: "Run again when a slider moves", compareGo: "Compare", tried: "Tried so far",
    triedHint: "Up is more different; right is likelier to the model. Numbers of so few thoughts are rough.",
    diffuseTitle: "Text out of noise",
    diffuseIntro: "The diffusion model fills in all places at once, the surest first. Branches compete; those given up fade.",
    diffuseHint: "The beginning of the text (may be empty)", branches: "Branches", steps: "Steps", length: "Length",
    diffuseGo: "Denoise", step: "Step", unsure: "unsure", sure: "sure", play: "Play", pause: "Pause",
    noDiffusion: "This server has no diffusion model. Type: thoughtmix serve --help",
    shortcuts: "Keyboard shortcuts", keysOn: "Single-key shortcuts on", close: "Close",
    tokenTitle: "This server asks for a token", tokenText: "It was started with one. It is kept for this tab only.",
    token: "Token", tokenUse: "Use it", again: "Try again", dismiss: "Dismiss", language: "Français", languageLabel: "Passer au français",
    toDark: "Dark", toLight: "Light", themeLabel: "Theme: switch to {theme}",
    thought: "Thought {label}", waiting: "waiting …", writing: "writing", stop: "complete", length_: "cut at the token limit",
    cancelled: "stopped", noiseOne: "Noise this one", noNoise: "This server has no noise thinker.", open: "Open", compareWith: "Compare with its parent",
    copy: "Copy", copied: "Copied.", picked: "picked", openTree: "{n, branch, branches}", like: "log-likelihood a token", likeShort: "{x} nats a token", closest: "Closest: {a} and {b} ({x}).", farthest: "Farthest: {c} and {d} ({y}).", jumps: "Jump to", errNoToken: "This server asks for its token. Press Try again to enter it.", ownSeed: "seed {seed}",
    specification: "What this answer was asked to be like", agreement: "{x} agreed", agreementNote: "How many of the answers drawn say the same", relevance: "relevance {x}", pair: "{a} and {b}: {x} apart", pairTitle: "{a} beside {b}", pairNote: "Marked: words that the other does not have.",
    nodeEmpty: "Choose a thought to read it here.", from: "from {label}",
    done: "{done} of {total} tokens", saidStart: "Thinking: {n, thought, thoughts}.", saidHalf: "Half done.", saidEnd: "{n, thought is, thoughts are} ready.",
    saidCancel: "Stopped. {n, thought is, thoughts are} kept.", saidPicked: "Picked: {labels}.", saidBranch: "Branching from {label}.", saidExport: "Saved {name}.",
    summary: "{n, thought, thoughts}", vendi: "{x} different, effectively", meanDistance: "{x} apart on average", speed: "{x} tokens a second",
    sideNote: "thinker: {name}", sideAbsent: "The model that is served cannot do this: it has no thought branches.",
    effectively: "different of {n}, effectively", apart: "apart on average", quality: "nats a token",
    notYet: "not run yet", running: "running …", setting: "Setting", colDifferent: "Different", colQuality: "Nats a token",
    stepOf: "Step {a} of {b}", aliveOf: "{n} alive", branch: "Branch {n}", fromBranch: "from {n}", given: "given up", heir: "given up, then a copy of {n}", best: "kept",
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
  },
  fr: {
    skip: "Aller aux pensées", views: "Vues", tabThink: "Pensées", tabCompare: "Comparer", tabDiffuse: "Débruiter",
    prompt: "Consigne", promptHint: "Demandez quelque chose qui a beaucoup de bonnes réponses…", thinker: "Penseur", auto: "celui du modèle",
    autoNote: "Ce pour quoi le modèle chargé est fait.", creativity: "Créativité", howMany: "Combien", think: "Penser",
    cancel: "Annuler", more: "Autres réglages", temperature: "Température", ofThinker: "du penseur", maxTokens: "Jetons au plus",
    seed: "Graine", ownOptions: "Options propres à ce penseur", progress: "Avancement",
    option_idea: "Texte à réécrire", option_strength: "Force", option_language: "Langue", option_families: "Familles", option_directions: "Directions",
    option_form: "Forme de la liste", option_demonstrations: "Exemples montrés", option_chains: "Chaînes", option_rounds: "Tours", option_distinct: "Sans répétitions", option_sees: "Ce qu’elle voit", option_source: "Source", option_factor: "Combien de fois plus", option_examples: "Exemples", option_group: "Lesquelles s’accordent", option_near: "Proches", option_draws: "Tirages", option_read: "Qui lit la consigne", option_steps: "Étapes", option_branches: "Branches", option_drafts: "Brouillons", option_keep: "Brouillons gardés", option_stages: "Étages", option_beta: "Poussée", option_layer: "Couche", option_width: "Largeur", option_ridge: "Lenteur",
    heatInstead: "La température ci-dessous remplace la créativité.",
    empty: "Une consigne, beaucoup de réponses vraiment différentes. Écrivez la vôtre, ou commencez par :",
    example1: "Trouve un usage inattendu d’une brique.", example2: "Donne-moi une idée originale d’anniversaire.",
    example3: "Commence une histoire de phare.", thoughts: "Pensées", overview: "Vue d’ensemble",
    pickLabel: "Les plus différentes", pick: "Choisir", showAll: "Tout montrer", exportJson: "Exporter en JSON", exportHtml: "Exporter en HTML",
    tree: "Branches", strength: "Bruit", value_precise: "précis", value_vague: "vague", value_chaotic: "chaotique", children: "Branches chacune",
    map: "Carte", mapHint: "Les pensées proches sont voisines.", heat: "Qui diffère de qui", alike: "semblables", different: "différentes",
    compareTitle: "La créativité à côté de la température",
    compareIntro: "La même consigne deux fois : des pensées qui suivent d’autres chemins dans le modèle, et un tirage simple que l’on chauffe.",
    live: "Relancer quand un curseur bouge", compareGo: "Comparer", tried: "Essais jusqu’ici",
    triedHint: "Plus haut : plus différent ; plus à droite : plus probable pour le modèle. Avec si peu de pensées, les nombres sont grossiers.",
    diffuseTitle: "Du texte tiré du bruit",
    diffuseIntro: "Le modèle de diffusion remplit toutes les places à la fois, les plus sûres d’abord. Les branches rivalisent ; celles qu’il abandonne pâlissent.",
    diffuseHint: "Le début du texte (peut être vide)", branches: "Branches", steps: "Étapes", length: "Longueur",
    diffuseGo: "Débruiter", step: "Étape", unsure: "hésitant", sure: "sûr", play: "Lire", pause: "Pause",
    noDiffusion: "Ce serveur n’a pas de modèle de diffusion. Tapez : thoughtmix serve --help",
    shortcuts: "Raccourcis clavier", keysOn: "Raccourcis à une touche actifs", close: "Fermer",
    tokenTitle: "Ce serveur demande un jeton d’accès", tokenText: "Il a été démarré avec un jeton. Il n’est gardé que pour cet onglet.",
    token: "Jeton d’accès", tokenUse: "L’utiliser", again: "Réessayer", dismiss: "Masquer", language: "English", languageLabel: "Switch to English",
    toDark: "Sombre", toLight: "Clair", themeLabel: "Thème : passer à {theme}",
    thought: "Pensée {label}", waiting: "en attente…", writing: "en cours", stop: "complète", length_: "coupée à la limite de jetons",
    cancelled: "arrêtée", noiseOne: "Bruiter celle-ci", noNoise: "Ce serveur n’a pas de penseur « noise ».", open: "Ouvrir", compareWith: "Comparer à son parent",
    copy: "Copier", copied: "Copié.", picked: "choisie", openTree: "{n, branche, branches}", like: "log-vraisemblance par jeton", likeShort: "{x} nats par jeton", closest: "Les plus proches : {a} et {b} ({x}).", farthest: "Les plus éloignées : {c} et {d} ({y}).", jumps: "Aller à", errNoToken: "Ce serveur demande son jeton d’accès. Appuyez sur Réessayer pour le saisir.", ownSeed: "graine {seed}",
    specification: "Ce que cette réponse devait être", agreement: "{x} d’accord", agreementNote: "Combien des réponses tirées disent la même chose", relevance: "pertinence {x}", pair: "{a} et {b} : {x} d’écart", pairTitle: "{a} à côté de {b}", pairNote: "En évidence : les mots que l’autre n’a pas.",
    nodeEmpty: "Choisissez une pensée pour la lire ici.", from: "issue de {label}",
    done: "{done} jetons sur {total}", saidStart: "Réflexion : {n, pensée, pensées}.", saidHalf: "À moitié.", saidEnd: "{n, pensée est prête, pensées sont prêtes}.",
    saidCancel: "Arrêté. {n, pensée est gardée, pensées sont gardées}.", saidPicked: "Choisies : {labels}.", saidBranch: "Branches à partir de {label}.", saidExport: "{name} enregistré.",
    summary: "{n, pensée, pensées}", vendi: "l’équivalent de {x} différentes", meanDistance: "{x} d’écart moyen", speed: "{x} jetons par seconde",
    sideNote: "penseur : {name}", sideAbsent: "Le modèle servi ne sait pas faire cela : il n’a pas de branches de pensée.",
    effectively: "différentes sur {n}, en équivalent", apart: "d’écart moyen", quality: "nats par jeton",
    notYet: "pas encore lancé", running: "en cours…", setting: "Réglage", colDifferent: "Différentes", colQuality: "Nats par jeton",
    stepOf: "Étape {a} sur {b}", aliveOf: "{n} en lice", branch: "Branche {n}", fromBranch: "issue de {n}", given: "abandonnée", heir: "abandonnée, puis copie de {n}", best: "gardée",
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
  },
};

export const LANGUAGES = Object.keys(WORDS);
let language = "en";

/** Fill in: {name} is replaced; {n, one, many} becomes "3 many" by the language's plural. */
export function t(key, values = {}) {
  const text = WORDS[language][key] ?? WORDS.en[key] ?? key;
  return text.replace(/\{(\w+)(?:, ([^,}]+), ([^}]+))?\}/g, (whole, name, one, many) => {
    const value = values[name];
    if (value === undefined) return whole;
    if (one === undefined) return String(value);
    const singular = new Intl.PluralRules(language).select(Number(value)) === "one";
    return `${number(Number(value), 0)} ${singular ? one : many}`;
  });
}

/** What the server calls so, in this language where there is a word for it, else as it is: named("value", "vague"). */
export const named = (kind, name) => WORDS[language][`${kind}_${name}`] ?? name;

/** A number as the language writes it. */
export function number(value, digits = 2) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value).replace("-", "\u2212");
}

export const spoken = () => language;

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
