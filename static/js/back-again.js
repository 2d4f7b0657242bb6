// Stands in for a page while the server can't answer: looks again and again, and loads the page when it can.
const seconds = Number(document.documentElement.dataset.againSeconds);

async function look() {
    try {
        const answer = await fetch(location.href, {method: "HEAD", cache: "no-store"});
        if (answer.status !== 503) {
            location.reload();
            return;
        }
    } catch {
        // The web server is away too: it is asked again.
    }
    setTimeout(look, seconds * 1000);
}

setTimeout(look, seconds * 1000);
